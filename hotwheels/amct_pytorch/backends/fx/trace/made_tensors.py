"""MadeTensors: the tensors that a forward makes of no traced value, such as ``torch.zeros(4)``, while it is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...calls.leaves import tensors_in

# Key of a node's meta: the memory of the constant that the node reads, if the forward makes it; else None.
MADE = "amct_made"


class MadeTensors:
    """Notes calls and the memory that they made; the memory is kept, so that its address is not used again."""

    def __init__(self) -> None:
        """Knows no tensor yet."""
        self._made: dict[int, tuple[int, Any]] = {}  # number of the call and the memory, by address

    def run(self, number: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Returns the result of call ``number``; tensors in it that share no memory with an operand are noted."""
        result = function(*args, **kwargs)
        given = {_memory(one) for one in tensors_in((args, kwargs)) if type(one) is Tensor}
        for one in tensors_in(result):
            if type(one) is Tensor and _memory(one) not in given:
                self._made[_memory(one)] = number, one.untyped_storage()
        return result

    def maker_of(self, tensor: Tensor) -> int | None:
        """Returns the number of the call that made the memory of ``tensor``, or of the tensor that it is a view of."""
        return self._made.get(_memory(tensor), (None, None))[0] if type(tensor) is Tensor else None

    def memory_of(self, tensor: Tensor) -> int | None:
        """Returns the address of the memory of ``tensor``; None if the forward has not made it."""
        return None if self.maker_of(tensor) is None else _memory(tensor)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
