"""TensorValues: the ONNX values of the tensors in the run that is being written."""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

import onnx_ir as ir
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .types import onnx_type


class TensorValues:
    """ONNX values by tensor object; tensors are not kept alive, so that unused results are freed.

    A tensor without a value is a constant: it does not depend on the inputs of the graph.
    """

    def __init__(self, label: Callable[[Any], int | str | None]) -> None:
        """``label`` returns the ONNX form of a size."""
        self._label = label
        self._values: MutableMapping[Tensor, ir.Value] = WeakTensorKeyDictionary()
        self._stale: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self._changers: MutableMapping[Tensor, weakref.ref[Tensor]] = WeakTensorKeyDictionary()

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._values

    def find(self, tensor: Tensor) -> ir.Value | None:
        """Returns the value of ``tensor``; None for a constant."""
        return self._values.get(tensor)

    def bind(self, tensor: Tensor, value: ir.Value) -> None:
        """Makes ``value`` the value of ``tensor``, also if it had another value before."""
        value.type, value.shape = ir.TensorType(onnx_type(tensor.dtype)), self._shape(tensor)
        self._values[tensor] = value
        self._stale.pop(tensor, None)

    def change(self, tensor: Tensor, value: ir.Value, what: str) -> None:
        """Notes that ``what`` changed ``tensor`` in place: other tensors with its memory must not be read any more."""
        memory = tensor.untyped_storage()._cdata
        for other in list(self._values):
            if other is not tensor and other.untyped_storage()._cdata == memory:
                was_stale = other in self._stale
                self._stale[other] = what
                # After two changes under other names, undoing one of them would not do.
                self._changers[other] = weakref.ref(other if was_stale else tensor)
        self.bind(tensor, value)

    def forget_change(self, tensor: Tensor, by: Tensor) -> None:
        """Makes the value of ``tensor`` known again if only ``by`` has changed it: the caller writes ``by`` into it."""
        changer = self._changers.get(tensor)
        if tensor in self._stale and changer is not None and changer() is by:
            del self._stale[tensor]

    def changed_by(self, tensor: Tensor) -> str | None:
        """Returns the call that changed the memory of ``tensor`` under another name; None if there was none."""
        return self._stale.get(tensor)

    def _shape(self, tensor: Tensor) -> ir.Shape:
        return ir.Shape([self._label(size) for size in tensor.shape])
