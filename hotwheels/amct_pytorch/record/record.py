"""Record: the quantization parameters as plain values, from which export and the record files are made (spec 11.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationRecord:
    """The grid of one quantized input.

    Attributes:
      index: Which quantizable input of the layer, counted from 0 in call order.
      scale: Real value of one step; a float32 value, canonical (spec 4.5).
      offset: Integer that stands for 0.0.
      num_bits: 4 or 8 to 16.
    """

    index: int
    scale: float
    offset: int
    num_bits: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightRecord:
    """The grid of one quantized weight.

    Attributes:
      scale: One value, or one per output channel; float32 values, canonical.
      num_bits: 4 or 8.
      codebook: Empty, or the 16 int8 values of a non-uniform weight (``params`` in the file).
      centroids: Empty, or the 16 real centroids in [-1, 1].
      clip_max: Learned bound of LNQ, or None.
    """

    scale: tuple[float, ...]
    num_bits: int = 8
    codebook: tuple[int, ...] = ()
    centroids: tuple[float, ...] = ()
    clip_max: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """The quantization parameters of one layer.

    Attributes:
      activations: One grid per quantized input, by increasing index.
      weight: Grid of the weight; None for a layer without weights.
      shift_bit: Empty (no shift), one N, or one N per output channel (spec 4.6).
      skip_fusion: Whether the BatchNorm behind the layer is kept apart.
    """

    activations: tuple[ActivationRecord, ...] = ()
    weight: WeightRecord | None = None
    shift_bit: tuple[int, ...] = ()
    skip_fusion: bool = False


@dataclasses.dataclass(frozen=True)
class Record:
    """The quantization parameters of a model: layer name -> LayerRecord, in graph order."""

    layers: Mapping[str, LayerRecord]
