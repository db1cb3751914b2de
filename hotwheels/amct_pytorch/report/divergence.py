"""Compares two runs layer by layer: a row per layer, the first layer that diverges, and the probable cause."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .tensors import LayerTensors

Array = NDArray[np.float64]

_SINGLE = 2.0**-22  # larger than two roundings to float32 and the last bits of float64 functions
_QUANTIZED_SQNR = 10.0  # dB; below it a quantized layer has lost its float signal
_SHIFTED_SQNR = 20.0  # dB; shifts round accumulators down, which costs up to this much in untouched files
_TIES_SQNR = 30.0  # dB; rounding ties that add up in untouched files cost less, a wrong layer mostly more
_TIES_SHARE = 0.001  # of the elements; a tie at the input of a layer may be several steps behind it
_HALF_STEP = 0.5  # above it the next layer's grid may round the two sides to neighbours
_LEVELS = 255  # steps of an 8-bit grid
_FEW = 0.02  # if more than this share of elements differs, rounding ties are not the cause


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One layer on both sides.

    Attributes:
      layer: Name of the layer.
      cosine: Similarity of the two results; NaN if one of them is all zero.
      sqnr: Signal of A over the difference, in dB; inf if the results are equal.
      max_lsb: Largest difference in steps of the grid behind the layer; None if that grid is not known.
      diverges: Whether the difference exceeds what is allowed between these two sides.
      cause: Probable cause, for the first layer that diverges; else empty.
    """

    layer: str
    cosine: float
    sqnr: float
    max_lsb: float | None
    diverges: bool
    cause: str = ""


def compare(a: LayerTensors, b: LayerTensors, tolerance: float | None = None) -> tuple[Row, ...]:
    """Returns a row for each layer that both sides have, in the order of the side that computed them.

    Without a ``tolerance`` (in steps of the output grid), real_quant and dumps must have equal results, other quantized
    sides may differ by one step. If 30 dB are left, up to a thousandth of the elements may differ by more (ties at the
    input of the layer), and all of them behind a layer that differs by half a step or more (ties add up). Against a
    float model at least 10 dB are required; 20 dB if only one side shifts accumulators (spec 4.6). Where no grid is
    behind a layer, a step is that of 8 bits over its range: the steps by which earlier layers may differ reach it.
    """
    order = a if a.steps or not b.steps else b
    steps = {**b.steps, **a.steps}
    common = [name for name in order.results if name in a.results and name in b.results]
    rows = [_row(name, a, b, steps.get(name), tolerance) for name in common]
    if tolerance is None and not (a.is_exact and b.is_exact):
        rows = _without_added_ties(rows)
    first = next((at for at, row in enumerate(rows) if row.diverges), None)
    if first is not None:
        earlier = next((row for row in rows[:first] if (row.max_lsb or 0) >= _HALF_STEP), rows[first])
        step = steps.get(earlier.layer)
        cause = find_cause(*_compared(earlier.layer, a, b, step), step)
        if earlier is not rows[first]:
            cause = f"it adds up from '{earlier.layer}', which is {earlier.max_lsb:.0f} step apart ({cause})"
        rows[first] = dataclasses.replace(rows[first], cause=cause)
    return tuple(rows)


def _without_added_ties(rows: list[Row]) -> list[Row]:
    """Returns ``rows`` in which what is small behind a layer with rounding ties does not diverge."""
    has_ties, found = False, []
    for row in rows:
        adds_up = has_ties and row.diverges and row.sqnr >= _TIES_SQNR
        found.append(dataclasses.replace(row, diverges=False) if adds_up else row)
        has_ties = has_ties or (row.max_lsb or 0) >= _HALF_STEP
    return found


def first_divergence(rows: Iterable[Row]) -> Row | None:
    """Returns the row of the first layer that diverges; None if none does."""
    return next((row for row in rows if row.diverges), None)


def one_side_shifts(a: LayerTensors, b: LayerTensors) -> bool:
    """Whether only one of two sides, of which one is simulated, rounds accumulators by shift bits."""
    return a.has_shifts != b.has_shifts and not (a.is_exact and b.is_exact)


def find_cause(a: Array, b: Array, step: float | None) -> str:
    """Returns the probable cause of the difference of ``b`` from ``a``, in a layer whose inputs agree."""
    if a.shape != b.shape:
        return f"other fusion: the shape is {b.shape} instead of {a.shape}"
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return "wrong parameters: results that are not finite on one side"
    for cause, is_it in _CAUSES:
        if is_it(a, b, step):
            return cause
    return "wrong parameters: probably the weights, or the grid of an input"


def _is_fusion(a: Array, b: Array, _step: float | None) -> bool:
    """Whether an activation is applied on one side only."""
    slack = _slack(a)
    return any(
        np.abs(one - other).max() <= slack
        for one, other in ((np.maximum(a, 0), b), (a, np.maximum(b, 0)), (np.clip(a, 0, 6), b), (a, np.clip(b, 0, 6)))
    )


def _is_tie(a: Array, b: Array, step: float | None) -> bool:
    if step is None:
        return False
    differs = np.abs(a - b) > _slack(a)
    return bool(np.abs(a - b).max() <= step * 1.01 and differs.mean() <= _FEW)


def _is_saturation(a: Array, b: Array, _step: float | None) -> bool:
    """Whether the differing values are at an end of one side's range."""
    differs = np.abs(a - b) > _slack(a)
    for one, other in ((a, b), (b, a)):
        clipped = np.clip(other, one.min(), one.max())
        is_at_end = (one == one.min()) | (one == one.max())
        if np.abs(clipped - one).max() <= _slack(a) and is_at_end[differs].all():
            return True
    return False


def _is_scale(a: Array, b: Array, _step: float | None) -> bool:
    """Whether the sides differ by one factor for each channel."""
    a, b = _by_channel(a), _by_channel(b)
    factor = (a * b).sum(1, keepdims=True) / np.maximum((a * a).sum(1, keepdims=True), np.finfo(np.float64).tiny)
    return bool(np.abs(a * factor - b).max() <= 1e-5 * np.abs(b).max(initial=1e-30))


def _is_shift(a: Array, b: Array, _step: float | None) -> bool:
    """Whether the sides differ by one constant for each channel."""
    difference = _by_channel(b - a)
    return bool(np.ptp(difference, axis=1).max() <= 1e-5 * np.abs(a).max(initial=1e-30))


def _is_requantization(a: Array, b: Array, step: float | None) -> bool:
    return step is not None and bool(np.abs(a - b).max() <= step * 1.01)


_CAUSES = (
    ("other fusion: an activation is applied on one side only", _is_fusion),
    ("saturation: the values that differ are clipped on one side", _is_saturation),
    ("wrong parameters: one factor per channel, a scale", _is_scale),
    ("wrong parameters: one difference per channel, a bias or an offset", _is_shift),
    ("rounding tie: few elements, by one step", _is_tie),
    ("requantization: at most one step anywhere; another multiplier or rounding", _is_requantization),
)


def _row(layer: str, a: LayerTensors, b: LayerTensors, step: float | None, tolerance: float | None) -> Row:
    left, right = _compared(layer, a, b, step)
    if left.shape != right.shape or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return Row(layer=layer, cosine=float("nan"), sqnr=float("-inf"), max_lsb=None, diverges=True)
    noise, signal = np.sum((left - right) ** 2), np.sum(left**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = float("inf") if noise == 0 else float(10 * np.log10(signal / noise))
        cosine = float(np.sum(left * right) / np.sqrt(signal * np.sum(right**2)))
    largest = float(np.abs(left - right).max(initial=0))
    return Row(
        layer=layer,
        cosine=cosine,
        sqnr=sqnr,
        max_lsb=None if step is None else largest / step,
        diverges=_diverges(left, right, a, b, step, tolerance, sqnr),
    )


def _diverges(
    left: Array,
    right: Array,
    a: LayerTensors,
    b: LayerTensors,
    step: float | None,
    tolerance: float | None,
    sqnr: float,
) -> bool:
    difference = np.abs(left - right)
    if tolerance is None and a.is_exact and b.is_exact:
        return bool((difference > _SINGLE * np.abs(left) + 1e-12 * np.abs(left).max(initial=0)).any())
    if "float" in (a.title.partition(":")[0], b.title.partition(":")[0]):
        return sqnr < _QUANTIZED_SQNR
    if tolerance is None and one_side_shifts(a, b):
        return sqnr < _SHIFTED_SQNR
    allowed = (1.0 if tolerance is None else tolerance) * 1.001
    step = step or float(np.ptp(left)) / _LEVELS if left.size else 0.0
    is_beyond = difference > max(allowed * step, 1e-4 * np.abs(left).max(initial=0))
    if tolerance is None and sqnr >= _TIES_SQNR and is_beyond.size and is_beyond.mean() <= _TIES_SHARE:
        return False
    return bool(is_beyond.any())


def _compared(layer: str, a: LayerTensors, b: LayerTensors, step: float | None) -> tuple[Array, Array]:
    """Returns both results of a layer on the same grid; elements that are the same infinity, or NaN, are 0 in both."""
    left, right = _on_same_grid(layer, a, b, step)
    if left.shape != right.shape or (np.isfinite(left).all() and np.isfinite(right).all()):
        return left, right
    is_same = ~np.isfinite(left) & ((left == right) | (np.isnan(left) & np.isnan(right)))
    return np.where(is_same, 0.0, left), np.where(is_same, 0.0, right)


def _on_same_grid(layer: str, a: LayerTensors, b: LayerTensors, step: float | None) -> tuple[Array, Array]:
    """Returns both results of a layer; if only one is rounded to the grid, the other is rounded and clipped too."""
    left, right = a.results[layer], b.results[layer]
    if step is None or a.is_rounded == b.is_rounded or left.shape != right.shape:
        return left, right
    rounded = left if a.is_rounded else right
    steps = np.rint((right if a.is_rounded else left) / step)
    other = np.clip(steps * step, rounded.min(initial=0), rounded.max(initial=0))
    return (left, other) if a.is_rounded else (other, right)


def _by_channel(x: Array) -> Array:
    """Returns ``x`` as [channels, elements]; the channels are axis 1 of images, the last axis of other tensors."""
    if x.ndim == 0:
        return x.reshape(1, 1)
    axis = 1 if x.ndim == 4 else -1
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def _slack(a: Array) -> float:
    return float(_SINGLE * np.abs(a).max(initial=0))
