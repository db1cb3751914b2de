"""The two interfaces the package quantizes through: ActivationQuantizer and WeightQuantizer (spec 2.1, 2.2).

State: every entry of a state_dict is a tensor whose shape is known at construction. `calibrated` and `symmetric` are
buffers, so that a checkpoint restores them; python copies of both spare a device synchronization per forward.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..core.affine import fake_quantize
from ..core.channels import per_channel
from ..core.params import QuantParams
from ..errors import CalibrationError, ConfigError
from .foreign.torch_base import FakeQuantizeBase
from .observers.observation import as_float, finite_samples, float_samples, is_quantizable
from .weight_grid import GridOrigin

_AFTER_A_BAD_STEP = (
    "A loss that is not finite has reached the optimizer: lower the learning rate, or skip such steps, and continue"
    " from an earlier checkpoint."
)


class Quantizer(FakeQuantizeBase):
    """What both kinds of quantizers share: the calibration flag, the layer's name, torch's attributes.

    Attributes:
      num_bits: Width of the stored integer.
      is_fixed: Whether the grid comes from the configuration, and no data or training changes it.
      finds_nan: True if the scale or the rounding pass reports NaN by itself, so that no separate check is needed.
    """

    is_fixed = False
    finds_nan = False
    calibrated: Tensor
    _quantizes: str
    _after_nan: str

    def __init__(self, *, num_bits: int, layer_name: str = "", is_calibrated: bool = False) -> None:
        super().__init__()
        self.num_bits = num_bits
        self._layer_name = layer_name
        self._is_calibrated = is_calibrated
        self._was_loaded = False
        self._is_in_use = True
        self.register_buffer("calibrated", torch.tensor(is_calibrated, dtype=torch.uint8))

    @property
    def layer_name(self) -> str:
        """The layer that errors and warnings name, those of the observer included; its owner may set it."""
        return self._layer_name

    @layer_name.setter
    def layer_name(self, name: str) -> None:
        self._layer_name = name
        if "observer" in self._modules:
            self._modules["observer"].object_layer = name  # type: ignore[union-attr]

    @property
    def is_calibrated(self) -> bool:
        """Whether the grid is known."""
        return self._is_calibrated

    @property
    def scale(self) -> Tensor:
        """The scale in force, detached; 1 before calibration, as in torch's FakeQuantize."""
        return self.calculate_qparams()[0] if self.is_calibrated else torch.ones(1, device=self.calibrated.device)

    @property
    def zero_point(self) -> Tensor:
        """The offset in force, detached; 0 before calibration, as in torch's FakeQuantize."""
        if self.is_calibrated:
            return self.calculate_qparams()[1]
        return torch.zeros(1, dtype=torch.int32, device=self.calibrated.device)

    @abstractmethod
    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point), 1-D, as torch's fake quantizers do."""

    def extra_repr(self) -> str:
        """The width and whether the grid is known, for ``print(model)``."""
        return f"num_bits={self.num_bits}, is_calibrated={self.is_calibrated}"

    def _require_numbers(self, params: QuantParams) -> QuantParams:
        """Returns ``params``; learned values and weights that became NaN show in the scale."""
        if math.isnan(params.scale.sum().item()):  # scales are positive, so nothing else makes their sum NaN
            msg = (
                f"Layer '{self.layer_name}': the scale of its quantizer {type(self).__name__} is NaN, because its"
                f" learned values or the weights are. {_AFTER_A_BAD_STEP}"
            )
            raise CalibrationError(msg)
        return params

    def _look_for_nan(self, x: Tensor) -> None:
        """In training a NaN would reach every weight with the next step; the sum, one cheap pass, rules it out."""
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
        """The end of calibration: from now on the grid is known and part of the checkpoint."""
        self._is_calibrated = True
        self.calibrated.fill_(1)

    def _require_calibrated(self) -> None:
        if not self.is_calibrated:
            msg = (
                f"Layer '{self.layer_name}': its quantizer {type(self).__name__} is not calibrated. Run enough "
                "forwards with enable_quantization(model, calibration=True) first: batch_num of them with IFMRObserver."
            )
            raise CalibrationError(msg)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._is_calibrated = bool(self.calibrated)
        self._was_loaded = self._is_calibrated and f"{prefix}calibrated" in state_dict


class ActivationQuantizer(Quantizer):
    """Quantizes one activation: watches batches during calibration, then rounds to the grid.

    An algorithm implements `_take`, `_grid`, `_round` and `_force_symmetric`.
    """

    symmetric: Tensor
    _quantizes, _after_nan = "input", "Look for the reason in the layers in front of it, or in the data."

    def __init__(
        self, *, num_bits: int, layer_name: str = "", is_symmetric: bool = False, is_calibrated: bool = False
    ) -> None:
        super().__init__(num_bits=num_bits, layer_name=layer_name, is_calibrated=is_calibrated)
        self._is_symmetric = is_symmetric
        self.register_buffer("symmetric", torch.tensor(is_symmetric, dtype=torch.uint8))

    @property
    def is_symmetric(self) -> bool:
        """Whether the offset is 0 by construction."""
        return self._is_symmetric

    def use(self, is_in_use: bool) -> None:
        """Says whether the input is a floating tensor; what an unused quantizer could learn has no gradient.

        So DistributedDataParallel does not wait for gradients that never come.
        """
        if is_in_use != self._is_in_use:
            self._is_in_use = is_in_use
            self._mark_learned()

    def observe(self, x: Any) -> None:
        """Takes one calibration batch; ignored when calibration is finished or ``x`` is no floating tensor.

        Raises:
          CalibrationError: ``x`` holds NaN or inf.
        """
        if self._is_finished():
            return
        is_checked_later = getattr(self._modules.get("observer"), "refuses_non_finite", False)
        samples = float_samples(x) if is_checked_later else finite_samples(x, self.layer_name)
        if samples is None:
            return
        with torch.no_grad():
            if self._take(samples):
                self._mark_calibrated()

    def params(self) -> QuantParams:
        """Returns the grid in force: detached, canonical scale, shape [].

        Raises:
          CalibrationError: Calibration is not finished.
        """
        self._require_calibrated()
        with torch.no_grad():
            return self._require_numbers(self._grid())

    def fake_quantize(self, x: Any) -> Any:
        """Returns the nearest grid points of ``x`` in a new tensor of its type.

        Anything but a floating tensor comes back as it is. Differentiable as the algorithm says. Computes in float32,
        in float64 for a float64 ``x``.

        Raises:
          CalibrationError: Calibration is not finished; in training also: ``x`` or a learned value is NaN.
        """
        if not is_quantizable(x):
            return x
        self._require_calibrated()
        self._look_for_nan(x)
        return self._round(as_float(x)).to(x.dtype)

    def overwrite(self, x: Tensor) -> Tensor:
        """Puts the values of ``fake_quantize(x)`` into the floating tensor ``x`` and returns it; without gradient.

        Memory for a large tensor costs more than quantizing it.
        """
        params = self.params()
        if x.dtype not in (torch.float32, torch.float64):
            return x.copy_(self.fake_quantize(x))
        return fake_quantize(x, params.scale, params.offset, params.num_bits, out=x)

    def make_symmetric(self) -> None:
        """Forces offset 0, for a Linear of rank above 2 (spec 8.3). A range found in this process is converted.

        Raises:
          ConfigError: An asymmetric grid was given by the configuration or loaded from a checkpoint.
        """
        if self.is_symmetric:
            return
        if self.is_calibrated and (self.is_fixed or self._was_loaded) and int(self.params().offset):
            msg = (
                f"Layer '{self.layer_name}' needs a symmetric activation grid (a Linear on more than 2 dimensions is "
                f"exported as MatMul, which takes offset 0 only), but offset {int(self.params().offset)} was given. "
                "Use an offset of 0, calibrate the layer again, or reshape its input to 2 dimensions."
            )
            raise ConfigError(msg)
        with torch.no_grad():
            self._force_symmetric()
        self._set_symmetric(True)

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point) of shape [1], as torch's fake quantizers do."""
        params = self.params()
        return params.scale.reshape(1), params.offset.reshape(1)

    def forward(self, x: Any) -> Any:
        """Follows torch: observes and quantizes as the two enabled flags say.

        While the observer is enabled an unfinished calibration lets ``x`` through in float.
        """
        is_observing = bool(self.observer_enabled[0])
        if is_observing:
            self.observe(x)
        if not bool(self.fake_quant_enabled[0]) or (is_observing and not self.is_calibrated):
            return x
        return self.fake_quantize(x)

    def _mark_learned(self) -> None:
        """Sets which parameters have a gradient."""
        for parameter in self.parameters():
            parameter.requires_grad_(self._is_in_use)

    @abstractmethod
    def _take(self, samples: Tensor) -> bool:
        """Takes one batch of finite float32; returns whether the grid is known now."""

    @abstractmethod
    def _grid(self) -> QuantParams:
        """The grid of the present values, without gradient."""

    @abstractmethod
    def _round(self, x: Tensor) -> Tensor:
        """The differentiable fake quantization of a float tensor."""

    @abstractmethod
    def _force_symmetric(self) -> None:
        """Turns observer and learned values symmetric."""

    def _is_finished(self) -> bool:
        """Whether further batches change nothing."""
        return self.is_calibrated

    def _set_symmetric(self, is_symmetric: bool) -> None:
        self._is_symmetric = is_symmetric
        self.symmetric.fill_(int(is_symmetric))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._is_symmetric = bool(self.symmetric)
        if self._is_symmetric:
            with torch.no_grad():
                self._force_symmetric()


class WeightQuantizer(Quantizer):
    """Quantizes one weight, handed over output-channels-first: shape [C_out, ...].

    Attributes:
      channel_wise: Whether there is one scale per output channel.
      grid_origin: Where the grid comes from.
    """

    channel_wise = False
    grid_origin = GridOrigin.OTHER
    _quantizes, _after_nan = "weight", _AFTER_A_BAD_STEP

    def observe(self, weight: Tensor) -> None:
        """Finds what is learned from the weight (clusters, the seed of a range); ignored when that is known.

        Raises:
          CalibrationError: ``weight`` holds NaN or inf.
        """
        if self.is_calibrated:
            return
        samples = finite_samples(weight, self.layer_name)
        if samples is None:
            return
        with torch.no_grad():
            if self._take(samples):
                self._mark_calibrated()

    def params(self, weight: Tensor, bias: Tensor | None = None) -> QuantParams:
        """Returns the grid of ``weight``: detached, canonical scale of shape [] or [C_out], offset 0.

        ``bias`` (after BatchNorm folding) only raises the smallest scale (spec 4.3). Changes nothing.

        Raises:
          CalibrationError: `observe` has to be called first.
        """
        self._require_calibrated()
        with torch.no_grad():
            return self._require_numbers(self._grid(as_float(weight.detach()), bias))

    def fake_quantize(self, weight: Tensor, params: QuantParams | None = None) -> Tensor:
        """Returns the nearest grid points of ``weight``, differentiable as the algorithm says.

        ``params`` is what `params` returned for this weight, perhaps with enlarged scales (spec 4.4); None computes it.
        """
        params = self.params(weight) if params is None else params
        self._look_for_nan(weight)
        return self._round(as_float(weight), params).to(weight.dtype)

    def adopt(self, params: QuantParams) -> None:
        """Takes ``params`` as the grid from now on; only where ``grid_origin`` is STATE."""
        raise NotImplementedError(f"{type(self).__name__} keeps no grid of its own.")

    def folded_params(self, weight: Tensor, factor: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns ``params(weight * factor, bias)``, where ``factor`` [C_out] is what a BatchNorm multiplies by."""
        return self.params(weight.detach() * per_channel(factor.detach(), weight), bias)

    def fake_quantize_unfolded(self, weight: Tensor, factor: Tensor, inverse: Tensor, params: QuantParams) -> Tensor:
        """Returns ``fake_quantize(weight * factor, params) * inverse``: the weight in front of a training BatchNorm."""
        folded = self.fake_quantize(weight * per_channel(factor, weight), params)
        return folded * per_channel(inverse, folded)

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point) of the last observed weight, of shape [1] or [C_out]."""
        self._require_calibrated()
        scale = self._scale_in_force().detach().reshape(-1)
        return scale, torch.zeros_like(scale, dtype=torch.int32)

    def forward(self, weight: Tensor) -> Tensor:
        """Follows torch: observes and quantizes as the two enabled flags say."""
        if bool(self.observer_enabled[0]):
            self.observe(weight)
        return self.fake_quantize(weight) if bool(self.fake_quant_enabled[0]) else weight

    @abstractmethod
    def _take(self, samples: Tensor) -> bool:
        """Takes the finite float32 weight; returns whether everything is known now."""

    @abstractmethod
    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        """The grid of this weight, without gradient."""

    @abstractmethod
    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        """The differentiable fake quantization."""

    @abstractmethod
    def _scale_in_force(self) -> Tensor:
        """The scale in force as far as it is state; ARQ answers for the last weight it saw."""
