"""Checks of the values in a record, for reading and for writing (spec 11.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.spec import ACTIVATION_BITS, WEIGHT_BITS, QuantSpec
from ..errors import RecordError
from .record import ActivationRecord, LayerRecord, WeightRecord

CODEBOOK_SIZE = 16  # values of a 4-bit non-uniform weight
LARGEST_SHIFT = 16  # spec 4.6
_INT8 = QuantSpec(num_bits=8)


def check_layer(name: str, layer: LayerRecord, source: str) -> None:
    """Raises RecordError, naming layer and field, if a value cannot belong to a quantized layer."""
    where = f"Layer '{name}' in {source}"
    indices = [one.index for one in layer.activations]
    if len(set(indices)) != len(indices):
        raise RecordError(f"{where}: record_d has the same index more than once, found {indices}.")
    for one in layer.activations:
        _check_activation(one, where)
    if layer.weight is not None:
        _check_weight(layer.weight, where)
    _check_shift_bit(layer, where)


def _check_activation(one: ActivationRecord, where: str) -> None:
    where = f"{where}, record_d with index {one.index}"
    if one.index < 0:
        raise RecordError(f"{where}: index must not be negative.")
    _check_bits("num_bits_d", one.num_bits, ACTIVATION_BITS, where)
    _check_scales("scale_d", [one.scale], where)
    spec = QuantSpec(num_bits=one.num_bits)
    if not spec.qmin <= one.offset <= spec.qmax:
        msg = f"{where}: offset_d is {one.offset}; with {one.num_bits} bits allowed: {spec.qmin} to {spec.qmax}."
        raise RecordError(msg)


def _check_weight(weight: WeightRecord, where: str) -> None:
    if not weight.scale:
        raise RecordError(f"{where}: scale_w has no value.")
    _check_scales("scale_w", weight.scale, where)
    _check_bits("num_bits_w", weight.num_bits, WEIGHT_BITS, where)
    _check_codebook(weight, where)
    if weight.clip_max is not None:
        _check_scales("weight_clip_max", [weight.clip_max], where)


def _check_codebook(weight: WeightRecord, where: str) -> None:
    for field, values in (("params", weight.codebook), ("centroids", weight.centroids)):
        if len(values) > CODEBOOK_SIZE:  # fewer values are accepted, since published examples are abbreviated
            raise RecordError(f"{where}: {field} has {len(values)} values; allowed: at most {CODEBOOK_SIZE}.")
    wrong = [value for value in weight.codebook if not _INT8.qmin <= value <= _INT8.qmax]
    if wrong:
        raise RecordError(f"{where}: params has {wrong[0]}; allowed: {_INT8.qmin} to {_INT8.qmax}.")
    unreal = [value for value in weight.centroids if not math.isfinite(value)]
    if unreal:
        raise RecordError(f"{where}: centroids has {unreal[0]}; finite numbers are allowed.")


def _check_shift_bit(layer: LayerRecord, where: str) -> None:
    shifts = layer.shift_bit
    if any(shifts) and not all(1 <= shift <= LARGEST_SHIFT for shift in shifts):
        msg = f"{where}: shift_bit is {list(shifts)}; allowed: all 0, or each from 1 to {LARGEST_SHIFT}."
        raise RecordError(msg)
    channels = len(layer.weight.scale) if layer.weight else 1
    if len(shifts) not in (0, 1, channels):
        raise RecordError(f"{where}: shift_bit has {len(shifts)} values; allowed: 1, or one per scale_w ({channels}).")


def _check_bits(field: str, value: int, allowed: Sequence[int], where: str) -> None:
    if value not in allowed:
        raise RecordError(f"{where}: {field} is {value}; allowed: {', '.join(map(str, allowed))}.")


def _check_scales(field: str, values: Sequence[float], where: str) -> None:
    wrong = [value for value in values if not 0 < value < math.inf]
    if wrong:
        raise RecordError(f"{where}: {field} is {wrong[0]!r}; it must be positive and finite.")
