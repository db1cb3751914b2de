"""QuantParams: the grid of one quantized tensor."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from torch import Tensor

from .spec import QuantSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantParams:
    """Scale and offset of one tensor, and the codebook of a non-uniform weight (spec 4.1, 6.3); nobody changes them.

    Attributes:
      scale: Real value of one step, float32, of shape [] or [C_out]; canonical (spec 4.5).
      offset: Integer that stands for 0.0, int32, of the shape of ``scale``; 0 if symmetric.
      num_bits: Width of the stored integer.
      codebook: None, or the 16 sorted int8 values which a non-uniform 4-bit weight may take, int32.
      centroids: None, or the 16 real centroids in [-1, 1] behind the codebook, float32.
      clip_max: None, or the learned bound of LNQ, in standard deviations of the weight.
    """

    scale: Tensor
    offset: Tensor
    num_bits: int = 8
    codebook: Tensor | None = None
    centroids: Tensor | None = None
    clip_max: float | None = None

    @property
    def spec(self) -> QuantSpec:
        """The QuantSpec with this width; its channel axis is 0 if there is a scale per channel, else None."""
        return QuantSpec(num_bits=self.num_bits, channel_axis=0 if self.scale.dim() else None)

    @functools.cached_property
    def kept(self) -> dict[str, Any]:
        """What its users have computed from this grid, as long as it lives; no part of a copy or a pickled object."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kept"}
