"""TorchRangeObserver: an observer class of torch or of a user inside our quantizers (spec 6.6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.spec import QuantSpec
from ...errors import ConfigError
from ..foreign.dotted_path import resolve_arguments
from .observation import RangeObserver

_PER_TENSOR = (None, torch.per_tensor_affine, torch.per_tensor_symmetric)


class TorchRangeObserver(RangeObserver):
    """Turns scale and zero point of a foreign per-tensor observer into a range; every batch counts.

    Args:
      cls: The observer; constructed with dtype qint32 and Qmin and Qmax of ``num_bits`` unless ``args`` say otherwise.
      object_layer: Layer named in messages.
      num_bits: 4 or 8..16.
      **args: Arguments of ``cls``; a dotted string is replaced by the object it names.

    Raises:
      ConfigError: ``cls`` cannot be constructed with these arguments, or has a range per channel.
    """

    keeps_updating = True

    def __init__(self, cls: type, object_layer: str = "", num_bits: int = 8, **args: Any) -> None:
        super().__init__(num_bits=num_bits, object_layer=object_layer)
        spec = QuantSpec(num_bits=num_bits)
        defaults = {"dtype": torch.qint32, "quant_min": spec.qmin, "quant_max": spec.qmax}
        arguments = resolve_arguments(args, cls.__module__, object_layer)
        try:
            self.observer = cls(**{**defaults, **arguments})
        except Exception as error:  # a class from outside may raise anything
            raise ConfigError(f"Layer '{object_layer}': observer {cls.__name__} cannot be built: {error}") from error
        if getattr(self.observer, "qscheme", None) not in _PER_TENSOR:
            msg = f"Layer '{object_layer}': observer {cls.__name__} is per channel; one range is needed here."
            raise ConfigError(msg)
        self._is_symmetric = getattr(self.observer, "qscheme", None) == torch.per_tensor_symmetric
        self._batches = 0

    @classmethod
    def symmetry_args(cls, qscheme: str | None, with_offset: bool | None) -> dict[str, Any]:
        """Returns the torch qscheme that corresponds to LUQ's two arguments; {} if neither is given."""
        if qscheme is None and with_offset is None:
            return {}
        is_symmetric = with_offset is False or qscheme == "symmetric"
        return {"qscheme": torch.per_tensor_symmetric if is_symmetric else torch.per_tensor_affine}

    @property
    def is_symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self._is_symmetric

    @property
    def is_complete(self) -> bool:
        """Whether a batch was seen."""
        return self._batches > 0

    def make_symmetric(self) -> None:
        """From now on the range is ``+-max(|min_val|, |max_val|)``."""
        self._is_symmetric = True
        if self.is_complete:
            end = torch.maximum(-self.min_val, self.max_val)
            self._set_range(-end, end)

    @property
    def progress(self) -> str:
        """How many batches were seen, as a text; one batch is enough."""
        return f"{self._batches} batches seen"

    def forget(self) -> None:
        """Sets the number of batches to 0; the state of the foreign observer is not changed."""
        self._batches = 0

    def update(self, samples: Tensor) -> None:
        """Takes one batch."""
        self.observer(samples)
        scale, offset = (
            torch.as_tensor(one).detach().reshape(()).to(self.scale) for one in self.observer.calculate_qparams()
        )
        low = (getattr(self.observer, "quant_min", -128) - offset) * scale
        high = (getattr(self.observer, "quant_max", 127) - offset) * scale
        if self._is_symmetric:
            high = torch.maximum(-low, high) if bool(offset) else high  # with offset 0 the scale is high / Qmax
            low = -high
        self._batches += 1
        self._set_range(low, high)
