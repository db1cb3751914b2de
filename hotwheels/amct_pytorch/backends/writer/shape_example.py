"""ShapeExample: inputs with the user's shapes and without data, so that writing a graph computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..calls.constant_calls import changes_in_place
from ..calls.leaves import map_leaves
from .example import Example

_CPU = torch.device("cpu")
# Attributes of a tensor that tell where it is. They have the values of a tensor with data on the CPU.
_PLACES: Mapping[Callable[..., Any], Any] = {
    Tensor.device.__get__: _CPU,
    Tensor.is_cpu.__get__: True,  # type: ignore[attr-defined]
    Tensor.is_meta.__get__: False,  # type: ignore[attr-defined]
    Tensor.get_device: -1,
}


class NeedsData(Exception):
    """The graph can only be written in a run with data."""


class ShapeExample(Example):
    """Tensors on torch's meta device, of the shapes, strides and types of the user's.

    Calls on constants alone compute with data. A call that needs the data of an input raises `NeedsData` or an error of
    torch; the graph is then to be written in a run with data.
    """

    def tensors(self) -> list[Tensor]:
        """Returns the tensors for the inputs."""
        return [_without_data(tensor) for tensor in self.real.values()]

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Returns the result of a function of torch, without data."""
        if function in _PLACES:
            return _PLACES[function]
        if changes_in_place(function, dict(kwargs)) and args and _has_data(args[0]):
            raise NeedsData("a buffer is changed")
        return super().call(function, map_leaves(_without_data, args), map_leaves(_without_data, dict(kwargs)))

    def with_data(self, tensor: Tensor) -> Tensor:
        """Returns zeros of the shape of ``tensor``."""
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def need_data(self, what: str) -> None:
        """Raises NeedsData."""
        raise NeedsData(what)


def _has_data(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.device == _CPU


def _without_data(leaf: Any) -> Any:
    return leaf.detach().to("meta") if _has_data(leaf) else leaf
