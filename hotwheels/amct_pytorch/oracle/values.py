"""The value on an edge of the integer network, and its quantization to the grid of a consumer (spec 10.2, 10.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from .deploy_pair import Grid


@dataclasses.dataclass(frozen=True, eq=False)
class Accumulator:
    """The exact result of a CUBE op.

    Attributes:
      sums: Integers, int32.
      step: Real units per integer, ``s_x * s_w`` in float64; broadcasts against ``sums``.
      layer: Layer whose result this is; movement nodes of the same layer move the integers unchanged.
    """

    sums: NDArray[np.int32]
    step: NDArray[np.float64]
    layer: str = ""

    def real(self) -> NDArray[np.float64]:
        """Returns ``sums * step`` in float64."""
        return self.sums.astype(np.float64) * self.step


@dataclasses.dataclass(frozen=True, eq=False)
class Centred:
    """A quantized tensor without its offset: ``q - offset``, and the scale.

    Attributes:
      integers: int32.
      scale: Real units per step.
      layer: Layer whose grid this is; movement nodes of the same layer (a padding) move the integers unchanged.
    """

    integers: NDArray[np.int32]
    scale: float
    layer: str

    def real(self) -> NDArray[np.float64]:
        """Returns ``(q - offset) * scale`` in float64; exact, a float32 times at most 17 bits."""
        return self.integers.astype(np.float64) * self.scale


# Plain arrays: graph inputs, constants and results of unquantized CUBE ops are float32, other reals float64.
Value: TypeAlias = "Accumulator | Centred | NDArray[Any]"


def as_real(value: Value) -> NDArray[Any]:
    """Returns the operand of an operator: floats as float64, integers and booleans unchanged (spec 10.4)."""
    if isinstance(value, Accumulator | Centred):
        return value.real()
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value


class RealValues(Mapping[str, NDArray[Any]]):
    """Results of `as_real` by name, each made when it is asked for: as integers values take half the memory."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> NDArray[Any]:
        return as_real(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def as_single(value: Value) -> NDArray[Any]:
    """Returns a graph output, or the input of an unquantized CUBE operation: floats as float32."""
    real = as_real(value)
    with np.errstate(over="ignore"):
        return real.astype(np.float32) if real.dtype == np.float64 else real


def quantize(value: Value, grid: Grid, layer: str) -> NDArray[np.int32]:
    """Returns the integers of ``value`` on ``grid``, offset included.

    Rounds half to even before the offset is added. Divides in the precision of ``value``; an accumulator is instead
    multiplied by ``fl32(step / scale)`` in float32.

    Raises:
      CalibrationError: A value is NaN, or the multiplier is not a float32.
    """
    steps = np.rint(_steps(value, grid, layer))
    if np.isnan(steps).any():
        raise CalibrationError(f"Layer '{layer}': a quantized input contains NaN.")
    # In float64 the sum is exact for all values that are not clipped, and infinities are kept until they are clipped.
    clipped = np.clip(steps.astype(np.float64) + grid.offset, grid.qmin, grid.qmax)
    return np.asarray(clipped).astype(np.int32)


def centre(integers: NDArray[np.int32], grid: Grid, layer: str) -> Centred:
    """Returns quantized integers without their offset."""
    return Centred(integers - np.int32(grid.offset), grid.scale, layer)


def _steps(value: Value, grid: Grid, layer: str) -> NDArray[Any]:
    if isinstance(value, Accumulator):
        return _requantized(value, grid, layer)
    return _divided(as_real(value) if isinstance(value, Centred) else value, grid, layer)


def _requantized(value: Accumulator, grid: Grid, layer: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        multiplier = (value.step / grid.scale).astype(np.float32)
    if not np.isfinite(multiplier).all():
        raise CalibrationError(
            f"Layer '{layer}': the requantization from step {value.step.max()} to scale {grid.scale} is beyond float32."
        )
    return np.asarray(value.sums.astype(np.float32) * multiplier)


def _divided(array: NDArray[Any], grid: Grid, layer: str) -> NDArray[Any]:
    if not np.issubdtype(array.dtype, np.floating):
        raise CalibrationError(f"Layer '{layer}': a quantized input is of type {array.dtype}; only floats have a grid.")
    with np.errstate(over="ignore"):
        return np.asarray(array / array.dtype.type(grid.scale))
