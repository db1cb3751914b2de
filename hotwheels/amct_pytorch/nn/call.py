"""LayerCall: the wrapped operation as a callable, with the positions of its quantized inputs in the arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..graph import Edge
from .importable import by_name

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One operation as a callable, with the positions of its quantizable tensors.

    Attributes:
      function: Called as ``function(*args, **kwargs)``; for a Tensor method the tensor is ``args[0]``.
      edges: The quantized inputs.
    """

    function: Callable[..., Any]
    edges: tuple[Edge, ...]

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Calls the operation."""
        return self.function(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "function": by_name(self.function)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    @property
    def module(self) -> nn.Module | None:
        """The module that is called, also if its forward is replaced; None for a function."""
        module = self.function if isinstance(self.function, nn.Module) else getattr(self.function, "module", None)
        return module if isinstance(module, nn.Module) else None

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Returns the value at each edge."""
        return [_get(edge, args, kwargs) for edge in self.edges]

    def substitute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], values: list[Any]) -> Arguments:
        """Returns copies of the arguments with ``values`` at the edges."""
        first = self.edges[0]
        if len(values) == 1 and first.position == 0 and first.element is None and args and not kwargs:
            return (values[0], *args[1:]), {}
        new_args, new_kwargs = list(args), dict(kwargs)
        for edge, value in zip(self.edges, values, strict=True):
            holder: Any = new_kwargs if edge.argument in new_kwargs else new_args
            key: Any = edge.argument if edge.argument in new_kwargs else edge.position
            holder[key] = value if edge.element is None else _with_element(holder[key], edge.element, value)
        return tuple(new_args), new_kwargs


@dataclasses.dataclass(frozen=True)
class MethodCall:
    """A Tensor method as a function of the tensor and its arguments."""

    name: str

    def __call__(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls ``tensor.name(*args, **kwargs)``."""
        return getattr(tensor, self.name)(*args, **kwargs)


def _get(edge: Edge, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    value = kwargs[edge.argument] if edge.argument in kwargs else args[edge.position]
    return value if edge.element is None else value[edge.element]


def _with_element(values: Any, element: int, value: Any) -> list[Any]:
    changed = list(values)
    changed[element] = value
    return changed
