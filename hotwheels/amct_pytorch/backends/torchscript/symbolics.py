"""Operations which torch's TorchScript-based exporter cannot write, or writes wrongly, as we write them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.onnx import symbolic_helper

_COL2IM, _COL2IM_OPSET = "aten::col2im", 18


@contextlib.contextmanager
def own_symbolics() -> Iterator[None]:
    """Lets the exporter use the functions of this module inside the block."""
    torch.onnx.register_custom_op_symbolic(_COL2IM, _col2im, _COL2IM_OPSET)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_COL2IM, _COL2IM_OPSET)  # type: ignore[attr-defined]


@symbolic_helper.parse_args("v", "v", "v", "is", "is", "is")
def _col2im(
    g: Any, input: Any, output_size: Any, kernel_size: Any, dilation: list[int], padding: list[int], stride: list[int]
) -> Any:
    """``F.fold``. torch's own asks for the number of sizes even where it needs none, and pads the wrong sides."""
    return g.op(
        "Col2Im",
        input,
        output_size,
        kernel_size,
        dilations_i=dilation,
        pads_i=[*padding, *padding],
        strides_i=stride,
    )
