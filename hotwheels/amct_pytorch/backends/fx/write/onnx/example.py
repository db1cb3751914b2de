"""The tensors that a graph is written on: those of the user, or ones whose sizes are symbols."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .graph_writer import GraphWriter
    from .sizes import SizeWriter


@dataclasses.dataclass(frozen=True)
class DynamicAxis:
    """An axis of an input of which the files take any size.

    Attributes:
      input: Name of the input.
      axis: Number of the axis.
      label: Name of the size; axes of the same label have equal sizes.
    """

    input: str
    axis: int
    label: str


@dataclasses.dataclass(frozen=True)
class FixedAxis:
    """A dynamic axis of which the run has turned out to be right with one size only."""

    axis: DynamicAxis
    size: int


class Example:
    """The inputs of one run: tensors of the user's, whose sizes are numbers.

    Attributes:
      real: Tensors with data by name of the input.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        """``given``: the tensors of the user by name of the input."""
        self.real = given

    def tensors(self) -> list[Tensor]:
        """Returns what stands for the inputs; objects of their own, since one tensor may be given twice."""
        return [tensor.detach() for tensor in self.real.values()]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Calls of torch inside the block compute on tensors of this run."""
        with torch.no_grad():
            yield

    def fixed(self) -> list[FixedAxis]:
        """Returns the dynamic axes of which the run so far is right with one size only."""
        return []

    def label(self, size: Any) -> int | str | None:
        """Returns a size as ONNX has it: a number, the name of a symbol, or None where it is computed."""
        return int(size)

    def with_data(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of the shape of ``tensor`` on which torch can compute."""
        return tensor

    def like(self, real: Tensor) -> Tensor:
        """Returns what stands for ``real``, a result that was computed outside of the run."""
        return real

    def sizes(self, writer: GraphWriter, inputs: Sequence[Any]) -> SizeWriter | None:
        """Returns what writes the symbols of ``inputs``, the values of the inputs; None if there are none."""
        return None


def dynamic_axes_of(
    given: Mapping[str, Tensor], setting: Mapping[str, Mapping[int, str] | Sequence[int]]
) -> list[DynamicAxis]:
    """Returns the axes of the inputs ``given`` in the ``dynamic_axes`` of torch.onnx.export; the rest is of outputs."""
    found = []
    for name in given:
        axes = setting.get(name, ())
        if not isinstance(axes, Mapping):
            axes = {axis: f"{name}_dynamic_axes_{number}" for number, axis in enumerate(axes, 1)}
        found += [DynamicAxis(name, axis % given[name].dim(), label) for axis, label in axes.items()]
    return found
