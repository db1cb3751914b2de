"""QuantSpec: how one tensor is quantized, without data and without scale."""

from __future__ import annotations

import dataclasses

from ..errors import ConfigError

ACTIVATION_BITS = (4, *range(8, 17))
NARROW_WEIGHT_BITS = 4
WEIGHT_BITS = (NARROW_WEIGHT_BITS, 8)
SECOND_INPUT_BITS = 8  # spec 5.4: of a matmul, whose second input counts as a weight
SMALLEST_SCALE = 2.0**-23  # spec 4.3: below it a range counts as empty; default eps of weight scales


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """How one tensor is quantized (spec 4.1, 4.2). Everything is signed.

    Attributes:
      num_bits: Width of the stored integer, 2 to 16.
      symmetric: If True the offset is 0.
      channel_axis: Axis with one scale per index; None for one scale for the whole tensor.
    """

    num_bits: int = 8
    symmetric: bool = False
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.num_bits <= 16:
            raise ConfigError(f"num_bits must be between 2 and 16, got {self.num_bits}.")

    @property
    def qmin(self) -> int:
        """Smallest integer, ``-2^(n-1)``."""
        return -(1 << (self.num_bits - 1))

    @property
    def qmax(self) -> int:
        """Largest integer, ``2^(n-1) - 1``."""
        return (1 << (self.num_bits - 1)) - 1

    @property
    def levels(self) -> int:
        """Number of steps between the ends, ``2^n - 1``."""
        return (1 << self.num_bits) - 1
