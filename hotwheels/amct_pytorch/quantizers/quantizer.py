"""Quantizer: the common base class of the quantizers of activations and of weights (spec 2.1, 2.2).

All state that matters is in buffers and parameters, and no Python attribute repeats it. So whatever writes them -
load_state_dict, a moving average, the broadcast of DistributedDataParallel, ``copy_`` - changes the quantizer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.params import QuantParams
from ..core.spec import QuantSpec
from ..errors import CalibrationError
from .foreign.torch_base import FakeQuantizeBase
from .settings import encode_settings, find_difference

AFTER_A_BAD_STEP = (
    "A loss that is not finite has reached the optimizer: lower the learning rate, or skip such steps, and continue"
    " from an earlier checkpoint."
)


class Quantizer(FakeQuantizeBase):
    """The common part of both kinds of quantizers: the calibration flag, the layer's name, torch's attributes.

    Attributes:
      algorithm: The name in the registry, or the dotted path of a class from outside.
      num_bits: Width of the stored integer.
      is_fixed: Whether the grid comes from the configuration, and no data or training changes it.
      whole_numbers: Names of float32 buffers that hold integers. They are floats because averages of models truncate
        integers, and float32 in a model of float16 too, which has no 32767.
      finds_nan: Whether the grid or the rounding kernel itself reports NaN, so that no separate check is needed.
      calibrated: float32 [], above 0 if the grid is known.
      settings: float32 [5], see `settings.encode_settings`.
    """

    algorithm = ""
    is_fixed = False
    finds_nan = False
    whole_numbers: tuple[str, ...] = ()
    calibrated: Tensor
    settings: Tensor
    _quantizes: str
    _after_nan: str

    def __init__(
        self,
        *,
        num_bits: int,
        layer_name: str = "",
        is_calibrated: bool = False,
        settings: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_bits = num_bits
        self._layer_name = layer_name
        self._is_in_use = True
        self._found_here = is_calibrated  # whether this object found the grid, or was given it
        self.register_buffer("calibrated", torch.tensor(float(is_calibrated)))
        self.register_buffer("settings", encode_settings(self.algorithm, num_bits, settings or {}))

    @property
    def layer_name(self) -> str:
        """The layer that errors and warnings of the quantizer and its observer name; the layer's owner may set it."""
        return self._layer_name

    @layer_name.setter
    def layer_name(self, name: str) -> None:
        self._layer_name = name
        if "observer" in self._modules:
            self._modules["observer"].object_layer = name  # type: ignore[union-attr]

    @property
    def is_calibrated(self) -> bool:
        """Whether the grid is known."""
        calibrated = self._buffers["calibrated"]  # torch's lookup of an attribute takes longer
        assert calibrated is not None
        return calibrated.item() > 0

    @property
    def is_finished(self) -> bool:
        """Whether further batches change nothing."""
        return self.is_calibrated

    @property
    def quant_min(self) -> int:
        """The smallest integer of the grid."""
        return QuantSpec(num_bits=self.num_bits).qmin

    @property
    def quant_max(self) -> int:
        """The largest integer of the grid."""
        return QuantSpec(num_bits=self.num_bits).qmax

    @property
    def scale(self) -> Tensor:
        """The scale in force, detached; 1 before calibration, as in torch's FakeQuantize."""
        return self.calculate_qparams()[0]

    @property
    def zero_point(self) -> Tensor:
        """The offset in force, detached; 0 before calibration, as in torch's FakeQuantize."""
        return self.calculate_qparams()[1]

    @torch.no_grad()
    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point), 1-D and detached, as torch's fake quantizers do: (1, 0) before calibration."""
        found = self._params_in_force() if self.is_calibrated else None
        if found is None:
            ones = torch.ones(1, device=self.calibrated.device)
            return ones, torch.zeros_like(ones, dtype=torch.int32)
        return found.scale.detach().reshape(-1), found.offset.detach().reshape(-1)

    @abstractmethod
    def _params_in_force(self) -> QuantParams | None:
        """Returns the present grid of a calibrated quantizer; None if it depends on a weight that was not seen yet."""

    def extra_repr(self) -> str:
        """The width and the grid, for ``print(model)``; or how far the calibration is."""
        if not self.is_calibrated:
            return f"num_bits={self.num_bits}, not calibrated{f' ({self.progress})' if self.progress else ''}"
        found = self._params_in_force()
        if found is None:
            return f"num_bits={self.num_bits}"
        ends = found.scale.min().item(), found.scale.max().item()
        scale = f"{ends[0]:.6g}" if ends[0] == ends[1] else f"{ends[0]:.6g} to {ends[1]:.6g}"
        count = f" ({found.scale.numel()} channels)" if found.scale.numel() > 1 else ""
        return f"num_bits={self.num_bits}, scale={scale}{count}, offset={int(found.offset.max())}"

    @property
    def progress(self) -> str:
        """How far the calibration is, such as ``1 of 4 batches seen``; empty if the observer does not count."""
        return str(getattr(self._modules.get("observer"), "progress", ""))

    @property
    def _was_given_elsewhere(self) -> bool:
        """Whether the grid was loaded, averaged or sent here: then further batches do not move it."""
        return self.is_calibrated and not self._found_here

    def _require_numbers(self, params: QuantParams) -> QuantParams:
        """Returns ``params``; raises CalibrationError if the scale is NaN, i.e. learned values or weights are NaN."""
        scale = params.scale if params.scale.dim() == 0 else params.scale.sum()
        if math.isnan(scale.item()):  # scales are positive, so nothing else makes their sum NaN
            msg = (
                f"Layer '{self.layer_name}': the scale of its quantizer {type(self).__name__} is NaN, because its"
                f" learned values or the weights are. {AFTER_A_BAD_STEP}"
            )
            raise CalibrationError(msg)
        return params

    def _look_for_nan(self, x: Tensor) -> None:
        """Raises CalibrationError if ``x`` holds NaN in training: the next step would carry NaN into every weight.

        The sum is one cheap pass; only if the sum is NaN, the elements are checked.
        """
        if self.training and torch.is_grad_enabled() and not self.finds_nan and bool(x.detach().sum().isnan()):
            self._refuse_nan(x)

    def _refuse_nan(self, x: Tensor) -> None:
        if bool(x.isnan().any()):
            msg = (
                f"Layer '{self.layer_name}': the {self._quantizes} of its quantizer {type(self).__name__} holds NaN,"
                f" shape {tuple(x.shape)}. {self._after_nan}"
            )
            raise CalibrationError(msg)

    def _mark_calibrated(self) -> None:
        """Ends calibration: from now on the grid is known and part of the checkpoint."""
        self._found_here = True
        self.calibrated.fill_(1)

    def _require_calibrated(self) -> None:
        if not self.is_calibrated:
            seen = f" ({self.progress})" if self.progress else ""
            msg = (
                f"Layer '{self.layer_name}': its quantizer {type(self).__name__} is not calibrated{seen}. Run enough "
                "forwards with enable_quantization(model, calibration=True) first: batch_num of them with IFMRObserver."
            )
            raise CalibrationError(msg)

    def _apply(self, fn: Any, recurse: bool = True) -> Quantizer:
        """Moves and casts the quantizer as `nn.Module` does, but leaves ``whole_numbers`` in float32."""
        kept = {name: self._buffers[name] for name in self.whole_numbers}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = self._buffers[name]
            if value is not None and moved is not None and moved.dtype != value.dtype:
                self._buffers[name] = value.to(moved.device)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing: list[str], unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        """Loads the state; other settings are an error, a state without settings (of an older version) is accepted."""
        loaded = state_dict.setdefault(f"{prefix}settings", self.settings.clone())
        difference = find_difference(self.settings, loaded)
        if difference is not None:
            errors.append(f"Layer '{self.layer_name}', {self._quantizes}: {difference}.")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if f"{prefix}calibrated" in state_dict:
            self._found_here = False
            self._forget_batches()

    def _forget_batches(self) -> None:
        """Makes the observer forget the batches of an earlier calibration, since the loaded state replaces them."""
        forget = getattr(self._modules.get("observer"), "forget", None)
        if forget is not None:
            forget()
