"""Compares what the oracle computes from a deploy pair with the integers of real_quant in PyTorch (spec 10.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from ..log import get_logger
from .interpreter import Result

_log = get_logger(__name__)
_FEW = 0.02  # share of elements that stand beside a rounding tie at most

Integers = NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class RealQuantIntegers:
    """What the layers of one real_quant forward computed, in the order of execution.

    Attributes:
      edges: By layer and number of the quantized input: its integers, offset included. Constant inputs are missing.
      sums: By layer, CUBE operations only: the exact accumulator, after bias and shift.
      has_float_sums: Whether the network has products in float or functions of the user, whose last bits may differ.
      functions: The user's functions in the network that the trace does not look into, each with its place.
    """

    edges: Mapping[str, Mapping[int, Integers]]
    sums: Mapping[str, Integers]
    has_float_sums: bool
    functions: tuple[str, ...] = ()


def check_against_real_quant(result: Result, real: RealQuantIntegers) -> None:
    """Demands that ``result``, of the same inputs, has the integers of ``real``.

    In a network with products in float or functions of the user, a few elements of an input may differ by one step (a
    WARNING); what is behind these is not compared.

    Raises:
      ExportError: An integer is another one; the text names the first layer.
    """
    for layer, edges in real.edges.items():
        found = result.edges_of(layer)
        if not found:
            continue  # nothing uses its result, so it is in no file
        for index, integers in edges.items():
            if any(_is_equal(integers, one) for one in found):
                continue
            place = f"input {index} of layer '{layer}'"
            nearest = _nearest(integers, found)
            if real.has_float_sums and nearest is not None and _is_rounding(integers, nearest):
                _log.warning(
                    "%s is beside rounding ties: real_quant in PyTorch and the deploy pair round a few elements to"
                    " neighbouring integers. The golden file holds those of the pair.",
                    place,
                )
                return
            raise ExportError(_text(place, integers, nearest) + _of_functions(real.functions))
        if layer in real.sums and layer in result.sums and not _is_equal(real.sums[layer], result.sums[layer]):
            raise ExportError(_text(f"the accumulator of layer '{layer}'", real.sums[layer], result.sums[layer]))


def _is_equal(one: Integers, other: Integers) -> bool:
    if one.shape != other.shape and np.squeeze(one).shape != np.squeeze(other).shape:
        return False
    return np.array_equal(np.squeeze(one), np.squeeze(other))


def _nearest(integers: Integers, candidates: tuple[Integers, ...]) -> Integers | None:
    """Returns the candidate of the same shape which has most elements in common; None without one."""
    alike = [one for one in candidates if one.shape == integers.shape]
    return max(alike, key=lambda one: int((one == integers).sum()), default=None)


def _is_rounding(one: Integers, other: Integers) -> bool:
    steps = np.abs(one.astype(np.int64) - other)
    return int(steps.max()) <= 1 and int(steps.sum()) <= max(1, _FEW * steps.size)


def _text(place: str, real: Integers, found: Integers | None) -> str:
    start = "The deploy pair does not compute what real_quant computes in PyTorch on golden_inputs"
    if found is None or found.shape != real.shape:
        shape = "none" if found is None else list(found.shape)
        return f"{start}: {place} has the shape {list(real.shape)}; in the pair: {shape}."
    places = np.argwhere(real != found)
    at = tuple(places[0])
    return (
        f"{start}: {place} at {list(map(int, at))} is {real[at]}; in the pair it is {found[at]}. It is the first of"
        f" {len(places)} elements of {real.size} that differ."
    )


def _of_functions(functions: tuple[str, ...]) -> str:
    if not functions:
        return ""
    return (
        f" The model calls {', '.join(functions)}: the files hold what such a function did on input_data. If a branch"
        " or a number in it depends on the values of its tensors, write it with torch.where and tensors; or pass"
        " golden_inputs that take the branch of input_data."
    )
