"""Compares an exported float ONNX model with what the user's own model computes in torch (spec 2.4, 3)."""

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
# Of the largest value of a tensor: what float32 sums in another order may differ by in an ordinary network.
TOLERANCE = 1e-4
# Steps of float32 below 1: functions with values up to 1 (sigmoid, softmax) are computed to these. onnxruntime's
# sigmoid(-62) is 0, torch's 7.7e-28; in a tensor of nothing but such values neither is wrong.
FLOOR = 2.0**-24
# A network may amplify the rounding of its first layers; so much more than the example shows may happen elsewhere.
_MARGIN = 16.0
_ADVICE = (
    "The exporter has translated an operation wrongly, or the model does what no ONNX file can do. Write that operation"
    " in another way, or leave it out of the exported part of the model."
)


class FloatReference(Protocol):
    """The user's own float model on one example."""

    def outputs(self) -> Sequence[NDArray[Any]]:
        """Returns its outputs, in the order of the ONNX model's."""

    def rounding(self) -> Sequence[NDArray[Any]]:
        """Returns its outputs on inputs which differ in their last bits from the example's."""

    def inner(self) -> Sequence[tuple[str, str, NDArray[Any]]]:
        """Returns known values inside, in the order in which the model computes them.

        Each with its name in the ONNX model and what it is, such as ``the result of layer 'conv1'``.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Difference:
    """The largest difference of one tensor, and the largest value which the tensor should have."""

    error: float
    largest: float

    def __str__(self) -> str:
        if not np.isfinite(self.error):
            return "has another shape, or is not finite where it should be"
        return f"differs by up to {self.error:.3g}, where its largest value is {self.largest:.3g}"


def check_float_model(model: ir.Model, inputs: Sequence[NDArray[Any]], reference: FloatReference) -> None:
    """Runs ``model`` on ``inputs``, in the order of the graph's, and compares its outputs with those of ``reference``.

    In onnxruntime where that is installed, else in the oracle. Differences of float rounding are none. A model that
    neither of them can run is not compared, which is said in the log.

    Raises:
      ExportError: An output is another one; the text names the first node whose value is.
    """
    try:
        found = run_float(model, inputs)
    except AmctError as error:
        _log.warning("The exported float model is not compared with the model in PyTorch: %s", error)
        return
    expected = reference.outputs()
    names = [str(value.name) for value in model.graph.outputs]
    if len(names) != len(expected):
        _log.debug("The model returns %d tensors, the ONNX model %d: not compared.", len(expected), len(names))
        return
    pairs = {name: (found[name], array) for name, array in zip(names, expected, strict=True)}
    wrong = _wrong(pairs, {})
    if wrong:  # it may be what rounding makes of this network
        wrong = _wrong(pairs, dict(zip(names, reference.rounding(), strict=True)))
    if wrong:
        output, difference = next(iter(wrong.items()))
        raise ExportError(
            f"The exported ONNX model does not compute what the model computes in PyTorch: on input_data the output"
            f" '{output}' {difference}. {_first_wrong(model, inputs, reference, output)} {_ADVICE}"
        )


def _wrong(
    pairs: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], shaken: Mapping[str, NDArray[Any]]
) -> dict[str, _Difference]:
    """Returns the tensors, found and expected, that differ by more than rounding; ``shaken`` shows what that does."""
    differences = {name: _difference(*pair) for name, pair in pairs.items()}
    allowed = {
        name: FLOOR
        + TOLERANCE * differences[name].largest
        + (_MARGIN * _difference(shaken[name], expected).error if name in shaken else 0.0)
        for name, (_, expected) in pairs.items()
    }
    return {name: one for name, one in differences.items() if not one.error <= allowed[name]}


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> _Difference:
    if found.shape != expected.shape:
        return _Difference(error=np.inf, largest=0.0)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    is_same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        errors = np.where(is_same, 0.0, np.abs(found - expected))
    values = np.abs(expected[np.isfinite(expected)])
    error = float(np.max(errors, initial=0.0))
    return _Difference(error=np.inf if np.isnan(error) else error, largest=float(np.max(values, initial=0.0)))


def _first_wrong(model: ir.Model, inputs: Sequence[NDArray[Any]], reference: FloatReference, output: str) -> str:
    """Returns the sentence that names the first known value which is wrong, and the node that makes it."""
    makers = {str(value.name): node for node in model.graph for value in node.outputs}
    inner = [one for one in reference.inner() if one[0] in makers]
    found = run_float(model, inputs, also=[name for name, _, _ in inner])
    wrong = _wrong({str(at): (found[name], array) for at, (name, _, array) in enumerate(inner)}, {})
    name, place = output, f"output '{output}'"
    if wrong:
        name, place, _ = inner[int(next(iter(wrong)))]
    if name not in makers:
        return "That is an input or a constant of the ONNX model."
    maker = makers[name]
    return f"The first value that is another one is {place}, made by node '{maker.name}' ({maker.op_type})."
