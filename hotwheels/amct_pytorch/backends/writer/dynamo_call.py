"""One call of a function or module as a small ONNX graph, by ``torch.onnx.export(dynamo=True)``.

It takes the calls that torch's TorchScript exporter refuses, and all of them in a torch without that exporter. It needs
the package onnxscript (the extra ``dynamo``) and writes opset 18 and later. A call costs about a second.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib import util
from typing import Any

import torch

from ...errors import ExportError
from ...onnx_io.opset import OpsetTooLow
from ..calls.template_call import CALL, CallModule, TemplateCall

_OLDEST_OPSET = 18
_NEWEST_OPSET = 23  # torch 2.13 knows no later one; its operators have the same meaning in later opsets
_LOGGERS = ("torch", "torch.onnx", "torch.export", "torch._subclasses", "onnxscript")
_SCOPES = "pkg.torch.onnx.name_scopes"


def export_by_dynamo(call: TemplateCall, opset: int, refusal: Exception) -> bytes:
    """Returns ``call`` as an ONNX model. ``refusal`` is the error of torch's TorchScript exporter.

    Raises:
      ExportError: onnxscript is not installed, or the call has no ONNX form.
      OpsetTooLow: ``opset`` is below 18.
    """
    reason = str(refusal.__cause__ or refusal).rstrip(". ")
    refused = str(refusal).rstrip(". ")
    if util.find_spec("onnxscript") is None:
        msg = f"{refused}. With onnxscript (the extra 'dynamo') and opset_version 18, torch's newer exporter is tried."
        raise ExportError(msg) from refusal
    if opset < _OLDEST_OPSET:
        raise OpsetTooLow(_OLDEST_OPSET, f"{reason}. From opset_version 18 on, torch's newer exporter is tried.")
    names = call.input_names()
    shapes = [{axis: torch.export.Dim.DYNAMIC for axis in found} for found in call.dynamic_axes]
    try:
        with torch.no_grad(), _without_messages():
            program = torch.onnx.export(
                CallModule(call).requires_grad_(False),
                tuple(call.inputs),
                dynamo=True,
                opset_version=min(opset, _NEWEST_OPSET),
                input_names=names,
                dynamic_shapes=(tuple(shapes),) if any(shapes) else None,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        msg = f"{refused}. torch's newer exporter refuses the call too: {_first_reason(error)}"
        raise ExportError(msg) from error
    assert program is not None
    _keep_module_paths(program.model)
    return bytes(program.model_proto.SerializeToString())


def _keep_module_paths(model: Any) -> None:
    """Names each node by its module path, as the TorchScript exporter does, and removes torch's notes from the model.

    The notes have paths of the user's disk.
    """
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
        path = scopes[-2].split(".") if len(scopes) > 1 else [""]
        node.name = "/".join(["", *(path if path[0] == CALL else ()), node.op_type])
        for one in (node, *node.outputs):
            one.metadata_props.clear()


def _first_reason(error: BaseException) -> str:
    """Returns the first sentence of the first of the linked errors; torch adds pages of advice to the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Silences torch's warnings and log about an exporter that this package chose, not the user."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for one in loggers:
                one.setLevel(logging.CRITICAL)
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
