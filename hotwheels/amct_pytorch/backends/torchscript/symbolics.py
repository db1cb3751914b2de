"""Symbolics for operations that torch's TorchScript-based exporter cannot write, or writes wrongly."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...errors import ExportError
from ...torch_torchscript import (
    is_symbolic_none,
    register_symbolic,
    symbolic_float,
    symbolic_ints,
    symbolic_rank,
    unregister_symbolic,
    write_floor_division,
)

_PLAIN = ("Sinh", "Cosh", "Asinh", "Acosh", "Atanh")  # ONNX has them, torch has no symbolic
_AXES_AS_INPUT = 18  # from this opset on a reduction takes its axes as an input


@contextlib.contextmanager
def own_symbolics() -> Iterator[None]:
    """Returns a context in which the exporter uses the functions of this module."""
    own: tuple[tuple[str, str, Callable[..., Any], int], ...] = (
        ("aten::col2im", "v v v is is is", _col2im, 18),
        # torch's own symbolic rounds towards zero.
        ("aten::floor_divide", "v v", write_floor_division, 13),
        ("aten::movedim", "v v v", _movedim, 13),
        ("aten::rms_norm", "v is v v", _rms_norm, 13),
        *((f"aten::{one.lower()}", "v", functools.partial(_plain, one), 13) for one in _PLAIN),
    )
    for name, kinds, symbolic, opset in own:
        register_symbolic(name, kinds, symbolic, opset)
    try:
        yield
    finally:
        for name, _, _, opset in own:
            unregister_symbolic(name, opset)


def _plain(op_type: str, g: Any, self: Any) -> Any:
    return g.op(op_type, self)


def _movedim(g: Any, self: Any, source: Any, destination: Any) -> Any:
    """Writes ``torch.movedim``; torch's own symbolic is wrong for negative axes."""
    rank = symbolic_rank(self)
    if rank is None:
        raise ExportError("torch.movedim of a tensor of unknown rank cannot be exported to ONNX; use permute.")
    pairs = zip(symbolic_ints(source), symbolic_ints(destination), strict=True)
    places = {to % rank: axis % rank for axis, to in pairs}
    rest = iter([axis for axis in range(rank) if axis not in places.values()])
    return g.op("Transpose", self, perm_i=[places[at] if at in places else next(rest) for at in range(rank)])


def _rms_norm(g: Any, input: Any, normalized_shape: list[int], weight: Any, eps: Any) -> Any:
    """Writes ``x / sqrt(mean(x * x) + eps)``, like the FX path; torch has no symbolic for it."""
    room = torch.finfo(torch.float32).eps if is_symbolic_none(eps) else symbolic_float(eps)
    axes = list(range(-len(normalized_shape), 0))
    squares = g.op("Mul", input, input)
    if g.opset < _AXES_AS_INPUT:
        mean = g.op("ReduceMean", squares, axes_i=axes, keepdims_i=1)
    else:
        mean = g.op("ReduceMean", squares, g.op("Constant", value_t=torch.tensor(axes)), keepdims_i=1)
    root = g.op("Sqrt", g.op("Add", mean, g.op("Constant", value_t=torch.tensor(room, dtype=torch.float32))))
    result = g.op("Div", input, root)
    return result if is_symbolic_none(weight) else g.op("Mul", result, weight)


def _col2im(
    g: Any, input: Any, output_size: Any, kernel_size: Any, dilation: list[int], padding: list[int], stride: list[int]
) -> Any:
    """Writes ``F.fold``; torch's own symbolic needs sizes that are not needed, and pads the wrong sides."""
    return g.op(
        "Col2Im",
        input,
        output_size,
        kernel_size,
        dilations_i=dilation,
        pads_i=[*padding, *padding],
        strides_i=stride,
    )
