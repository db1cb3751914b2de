"""Axes that are dynamic in a float model: those for which the model is right with one size only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import AmctError
from ..log import get_logger
from .float_check import FloatReference, check_outputs, outputs_of
from .float_run import run_float

_log = get_logger(__name__)
Axes = Mapping[str, list[tuple[int, int]]]  # by label: the number of an input and of its axis


class SizedReference(FloatReference, Protocol):
    """The results of the user's float model on its example, or on inputs of other sizes."""

    def tensors(self) -> list[NDArray[Any]]:
        """Returns the tensors of the inputs, in the order of the ONNX model's."""

    def resized(self, sizes: Mapping[tuple[int, int], int]) -> SizedReference:
        """Returns the same on inputs of other sizes, by number of the ONNX model's input and axis."""


def check_float_file(model: ir.Model, reference: SizedReference) -> None:
    """Compares ``model`` with the user's forward on the example; see `fix_wrong_axes` for inputs of other sizes.

    Raises:
      ExportError: An output differs on the example by more than float rounding.
    """
    tensors = reference.tensors()
    found = outputs_of(model, tensors)
    if found is not None:
        check_outputs(model, tensors, reference, found)
        fix_wrong_axes(model, reference)


def fix_wrong_axes(model: ir.Model, reference: SizedReference) -> None:
    """Makes the dynamic axes of ``model`` static for which it is right with the size of the example only.

    torch's exporter takes some sizes from the example: those of windows, the length of a loop. A WARNING names each.
    """
    labels = _labels(model)
    if not labels or not _is_wrong(model, reference, labels, labels):
        return
    for label in [one for one in labels if _is_wrong(model, reference, labels, [one])]:
        number, axis = labels[label][0]
        size = reference.tensors()[number].shape[axis]
        _log.warning(
            "Axis '%s' of %s is not dynamic in the files: the exported model computes what the model in PyTorch"
            " computes for the size %d of input_data only.",
            label,
            ", ".join(f"'{model.graph.inputs[number].name}'" for number, _ in labels[label]),
            size,
        )
        _fix(model, label, size)


def _labels(model: ir.Model) -> Axes:
    found: dict[str, list[tuple[int, int]]] = {}
    for number, value in enumerate(model.graph.inputs):
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value:
                found.setdefault(size.value, []).append((number, axis))
    return found


def _is_wrong(model: ir.Model, reference: SizedReference, labels: Axes, varied: Iterable[str]) -> bool:
    """Whether ``model`` is wrong for other sizes of the axes ``varied``, with which the user's forward runs."""
    for other in _resized(reference, labels, list(varied)):
        try:
            other.outputs()
        except Exception as error:  # the user's forward may raise anything
            _log.debug("The float model does not run with other sizes of its dynamic axes: %s", error)
            continue
        tensors = other.tensors()
        try:
            found = run_float(model, tensors)
            check_outputs(model, tensors, other, [found[str(value.name)] for value in model.graph.outputs])
        except (AmctError, RuntimeError, ValueError) as error:
            _log.debug("The exported float model with other sizes of its dynamic axes: %s", error)
            return True
        return False
    return False


def _resized(reference: SizedReference, labels: Axes, varied: list[str]) -> Iterator[SizedReference]:
    """Yields references with other sizes: one sample more and half the size of other axes, then twice the size."""
    shapes = [one.shape for one in reference.tensors()]
    for is_larger in (False, True):
        sizes: dict[tuple[int, int], int] = {}
        for label in varied:
            number, axis = labels[label][0]
            size = shapes[number][axis]
            other = size + 1 if axis == 0 else 2 * size if is_larger or size % 2 or size < 4 else size // 2
            sizes |= dict.fromkeys(labels[label], other)
        yield reference.resized(sizes)


def _fix(model: ir.Model, label: str, size: int) -> None:
    for value in (*model.graph.inputs, *model.graph.outputs, *(one for node in model.graph for one in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(
                [size if isinstance(one, ir.SymbolicDim) and one.value == label else one for one in value.shape]
            )
