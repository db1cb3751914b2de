"""The base classes of this package's quantizers and observers, with the interface that torch's quantization expects.

torch is about to drop ``torch.ao.quantization.FakeQuantizeBase`` and ``ObserverBase``. As long as torch has them, the
classes here are registered as virtual subclasses: ``isinstance`` is True, and torch's functions, such as
``disable_observer``, work on them.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ...torch_private import register_base_classes


class _Partial(functools.partial[Any]):
    """A class with some of its constructor arguments, in the form that a ``qconfig`` of torch takes."""

    def with_args(self, **kwargs: Any) -> _Partial:
        return _Partial(self, **kwargs)


class FakeQuantizeBase(ABC, nn.Module):
    """A module that observes and fake-quantizes its input.

    Attributes:
      fake_quant_enabled: uint8 [1], whether it fake-quantizes.
      observer_enabled: uint8 [1], whether it observes.
    """

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """Returns ``x``, rounded to the grid if that is enabled."""

    @abstractmethod
    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point)."""

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Switches rounding on or off."""
        self.fake_quant_enabled[0] = int(enabled)

    def disable_fake_quant(self) -> None:
        """Switches rounding off."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Switches observation on or off."""
        self.observer_enabled[0] = int(enabled)

    def disable_observer(self) -> None:
        """Switches observation off."""
        self.enable_observer(False)

    @classmethod
    def with_args(cls, **kwargs: Any) -> _Partial:
        """Returns a constructor with these arguments."""
        return _Partial(cls, **kwargs)


class ObserverBase(ABC, nn.Module):
    """A module that finds the range of its inputs.

    Attributes:
      dtype: The type of the stored integers, as torch names it.
      is_dynamic: False: the range is found in calibration, not in each forward.
    """

    def __init__(self, dtype: torch.dtype, is_dynamic: bool = False) -> None:
        super().__init__()
        self.dtype = dtype
        self.is_dynamic = is_dynamic

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """Observes ``x`` and returns it unchanged."""

    @abstractmethod
    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point)."""

    @classmethod
    def with_args(cls, **kwargs: Any) -> _Partial:
        """Returns a constructor with these arguments."""
        return _Partial(cls, **kwargs)


register_base_classes(FakeQuantizeBase, ObserverBase)
