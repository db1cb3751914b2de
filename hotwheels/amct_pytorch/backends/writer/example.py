"""The tensors with which a graph is run while it is written: the user's, or tensors with symbolic sizes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...log import get_logger
from ..batches.export_names import Axes, labels_of

if TYPE_CHECKING:
    from .graph_writer import GraphWriter
    from .sizes import SizeWriter

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class DynamicAxis:
    """An axis of an input that may have any size in the files.

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
    """A dynamic axis for which the written graph would be right with one size only."""

    axis: DynamicAxis
    size: int


class Example:
    """The inputs of one run: the user's tensors, whose sizes are numbers.

    Attributes:
      real: Tensors with data by name of the input.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        """``given``: the tensors of the user by name of the input."""
        self.real = given

    def tensors(self) -> list[Tensor]:
        """Returns the tensors for the inputs; each a separate object, since one tensor may be given twice."""
        return [tensor.detach() for tensor in self.real.values()]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Returns a context in which calls of torch compute on tensors of this run."""
        with torch.no_grad():
            yield

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Returns the result of a function of torch on tensors of this run."""
        with self.running():
            return function(*args, **kwargs)

    def need_data(self, what: str) -> None:
        """Raises an exception if this run has no data; ``what`` needs them."""

    def fixed(self) -> list[FixedAxis]:
        """Returns the dynamic axes for which the graph so far is right with one size only."""
        return []

    def line_of(self, fixed: FixedAxis) -> str:
        """Returns the user's line that fixed an axis, ``file:number: source``; empty if that was not in user code."""
        return ""

    def fix(self, value: Any) -> None:
        """Fixes the dynamic axes on which ``value`` depends, a number of this run, since it must keep its value."""

    def label(self, size: Any) -> int | str | None:
        """Returns the ONNX form of a size: a number, the name of a symbol, or None if it is computed."""
        return int(size)

    def with_data(self, tensor: Tensor) -> Tensor:
        """Returns a tensor with data, of the shape of ``tensor``."""
        return tensor

    def sizes(self, writer: GraphWriter, inputs: Sequence[Any]) -> SizeWriter | None:
        """Returns the writer of symbolic sizes for the values ``inputs``; None if there are no symbols."""
        return None


def dynamic_axes_of(given: Mapping[str, Tensor], setting: Mapping[str, Axes]) -> list[DynamicAxis]:
    """Returns the entries of torch.onnx.export's ``dynamic_axes`` for the inputs ``given``; others are for outputs."""
    found = []
    for name, tensor in given.items():
        for axis, label in labels_of(name, setting.get(name, ())).items():
            if -tensor.dim() <= axis < tensor.dim():
                found.append(DynamicAxis(name, axis % tensor.dim(), label))
            else:
                _log.warning("dynamic_axes: axis %d of '%s' is ignored, which has %d axes.", axis, name, tensor.dim())
    return found


def without_fixed(axes: Sequence[DynamicAxis], fixed: Mapping[FixedAxis, str]) -> list[DynamicAxis]:
    """Returns the ``axes`` that remain dynamic; a WARNING names each of ``fixed`` and its place in the model."""
    for one, place in fixed.items():
        _log.warning(
            "Axis %d of input '%s' ('%s') is not dynamic in the files: %s decides by its size.",
            one.axis.axis,
            one.axis.input,
            one.axis.label,
            place,
        )
    labels = {one.axis.label for one in fixed}
    return [axis for axis in axes if axis.label not in labels]
