"""TensorValues: which ONNX value stands for which tensor of the run that is being written."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import onnx_ir as ir
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .types import onnx_type


class TensorValues:
    """ONNX values by tensor object. It keeps no tensor alive: results that are read no more may go.

    A tensor without a value is a constant: no input of the graph had a part in it.
    """

    def __init__(self, label: Callable[[Any], int | str | None]) -> None:
        """``label`` returns a size as ONNX has it."""
        self._label = label
        self._values: MutableMapping[Tensor, ir.Value] = WeakTensorKeyDictionary()
        self._stale: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._values

    def find(self, tensor: Tensor) -> ir.Value | None:
        """Returns the value of ``tensor``, None for a constant."""
        return self._values.get(tensor)

    def bind(self, tensor: Tensor, value: ir.Value) -> None:
        """Says that ``value`` stands for ``tensor``, also where another one did before."""
        value.type, value.shape = ir.TensorType(onnx_type(tensor.dtype)), self._shape(tensor)
        self._values[tensor] = value
        self._stale.pop(tensor, None)

    def change(self, tensor: Tensor, value: ir.Value, what: str) -> None:
        """Says that ``tensor`` was changed in place by ``what``: others which share its memory must not be read."""
        memory = tensor.untyped_storage()._cdata
        for other in list(self._values):
            if other is not tensor and other.untyped_storage()._cdata == memory:
                self._stale[other] = what
        self.bind(tensor, value)

    def changed_by(self, tensor: Tensor) -> str | None:
        """Returns what changed the memory of ``tensor`` under another name, None if nothing did."""
        return self._stale.get(tensor)

    def _shape(self, tensor: Tensor) -> ir.Shape:
        return ir.Shape([self._label(size) for size in tensor.shape])
