"""Compares the results of an exported float ONNX model with those of the user's model in torch (spec 2.4, 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import AmctError, ExportError
from ..log import get_logger
from .float_run import run_float

_log = get_logger(__name__)
# Share of a tensor's largest value by which results may differ, as float32 sums in another order do.
TOLERANCE = 1e-4
# Float32 step below 1: functions with values up to 1 (sigmoid, softmax) are only computed to this precision.
# onnxruntime's sigmoid(-62) is 0, torch's is 7.7e-28; in a tensor of only such values both are right.
FLOOR = 2.0**-24
# A network may amplify the rounding of its first layers; this factor allows for more than `rounding` shows.
_MARGIN = 16.0
_ADVICE = (
    "The exporter has translated an operation wrongly, or the model does something that ONNX cannot express. Write that"
    " operation in another way, or leave it out of the exported part of the model."
)


class FloatReference(Protocol):
    """The results of the user's float model on one example."""

    def outputs(self) -> Sequence[NDArray[Any]]:
        """Returns the model's outputs, in the order of the ONNX model's outputs."""

    def rounding(self) -> Sequence[NDArray[Any]]:
        """Returns the model's outputs on inputs that differ from the example in their last bits."""

    def inner(self) -> Sequence[tuple[str, str, NDArray[Any]]]:
        """Returns intermediate values, in the order in which the model computes them.

        Each value comes with its name in the ONNX model and a description, such as ``the result of layer 'conv1'``.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest difference of one tensor, and the largest magnitude in the expected tensor."""

    error: float
    largest: float

    def __str__(self) -> str:
        if not np.isfinite(self.error):
            return "has another shape, or is not finite where it should be"
        return f"differs by up to {self.error:.3g}, where its largest value is {self.largest:.3g}"


def outputs_of(model: ir.Model, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """Returns the outputs of ``model`` on ``inputs``, both in graph order.

    onnxruntime runs the model if it is installed, else the oracle. None if neither can run it; a WARNING says so.
    """
    try:
        found = run_float(model, inputs)
    except AmctError as error:
        _log.warning("The exported float model is not compared with the model in PyTorch: %s", error)
        return None
    return [found[str(value.name)] for value in model.graph.outputs]


def check_float_model(model: ir.Model, inputs: Sequence[NDArray[Any]], reference: FloatReference) -> None:
    """Runs ``model`` on ``inputs`` (see `outputs_of`) and compares its outputs with those of ``reference``.

    Raises:
      ExportError: An output differs by more than float rounding; the text names the first node whose value differs.
    """
    found = outputs_of(model, inputs)
    if found is not None:
        check_outputs(model, inputs, reference, found)


def check_outputs(
    model: ir.Model, inputs: Sequence[NDArray[Any]], reference: FloatReference, found: Sequence[NDArray[Any]]
) -> None:
    """Compares ``found``, the outputs of ``model`` on ``inputs``, with those of ``reference``.

    Raises:
      ExportError: An output differs by more than float rounding; the text names the first node whose value differs.
    """
    expected = reference.outputs()
    names = [str(value.name) for value in model.graph.outputs]
    if len(names) != len(expected):
        _log.debug("The model returns %d tensors, the ONNX model %d: not compared.", len(expected), len(names))
        return
    pairs = dict(zip(names, zip(found, expected, strict=True), strict=True))
    wrong = differences(pairs, {})
    if wrong:  # this network may amplify rounding, so compare once more with its own sensitivity
        wrong = differences(pairs, dict(zip(names, reference.rounding(), strict=True)))
    if wrong:
        output, difference = next(iter(wrong.items()))
        raise ExportError(
            f"The exported ONNX model does not compute the same as the model in PyTorch: on input_data the output"
            f" '{output}' {difference}. {_first_wrong(model, inputs, reference, output)} {_ADVICE}"
        )


def differences(
    pairs: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], shaken: Mapping[str, NDArray[Any]]
) -> dict[str, Difference]:
    """Returns the pairs (found, expected) that differ by more than rounding.

    ``shaken`` has the expected tensors after a change of the inputs in their last bits, which shows the effect of
    rounding.
    """
    differences = {name: _difference(*pair) for name, pair in pairs.items()}
    allowed = {
        name: FLOOR
        + TOLERANCE * differences[name].largest
        + (_MARGIN * _difference(shaken[name], expected).error if name in shaken else 0.0)
        for name, (_, expected) in pairs.items()
    }
    return {name: one for name, one in differences.items() if not one.error <= allowed[name]}


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> Difference:
    if found.shape != expected.shape:
        return Difference(error=np.inf, largest=0.0)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    is_same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        errors = np.where(is_same, 0.0, np.abs(found - expected))
    values = np.abs(expected[np.isfinite(expected)])
    error = float(np.max(errors, initial=0.0))
    return Difference(error=np.inf if np.isnan(error) else error, largest=float(np.max(values, initial=0.0)))


def _first_wrong(model: ir.Model, inputs: Sequence[NDArray[Any]], reference: FloatReference, output: str) -> str:
    """Returns a sentence with the first known value that differs, and the node that makes it."""
    makers = {str(value.name): node for node in model.graph for value in node.outputs}
    inner = [one for one in reference.inner() if one[0] in makers]
    found = run_float(model, inputs, also=[name for name, _, _ in inner])
    wrong = differences({str(at): (found[name], array) for at, (name, _, array) in enumerate(inner)}, {})
    name, place = output, f"output '{output}'"
    if wrong:
        name, place, _ = inner[int(next(iter(wrong)))]
    if name not in makers:
        return "This output is an input or a constant of the ONNX model."
    maker = makers[name]
    return f"The first value that differs is {place}, made by node '{maker.name}' ({maker.op_type})."
