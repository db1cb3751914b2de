"""Marker functions: identities that become nodes in the exported ONNX model, at the begin and end of each layer."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ...nn.unit_axis import written_as_images
from ...ops.desc import OpDesc
from ...torch_private import without_torch_function

_DOMAIN = "amct_marker"


class _MarkInput(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor, _layer: str, _index: int) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def symbolic(g: Any, x: Any, layer: str, index: int) -> Any:
        return g.op(f"{_DOMAIN}::Input", x, layer_s=layer, index_i=index).setType(x.type())


class _MarkOutput(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor, _layer: str) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def symbolic(g: Any, x: Any, layer: str) -> Any:
        return g.op(f"{_DOMAIN}::Output", x, layer_s=layer).setType(x.type())


def mark_input(x: Tensor, layer: str, index: int) -> Tensor:
    """Returns ``x``; in ONNX a node ``amct_marker::Input`` in front of quantizable input ``index`` of ``layer``."""
    with without_torch_function():  # FollowedAliases must not take the marker for a view
        return _MarkInput.apply(x, layer, index)  # type: ignore[no-any-return, no-untyped-call]


def mark_output(x: Tensor, layer: str) -> Tensor:
    """Returns ``x``; in ONNX a node ``amct_marker::Output`` behind ``layer``."""
    with without_torch_function():
        return _MarkOutput.apply(x, layer)  # type: ignore[no-any-return, no-untyped-call]


def body(op: OpDesc) -> contextlib.AbstractContextManager[None]:
    """Returns a context for the call of a layer's module; modes of the trace do not see what the module calls.

    So the export shows that a weight is computed.
    """
    return written_as_images() if op.image_axes == 1 else without_torch_function()


def mark_result(result: Any, layer: str) -> Any:
    """Returns ``result`` with its tensor, or the first tensor of a list or tuple, marked as output of ``layer``."""
    if isinstance(result, Tensor):
        return mark_output(result, layer)
    if type(result) in (list, tuple) and result:
        return type(result)([mark_result(result[0], layer), *result[1:]])
    return result
