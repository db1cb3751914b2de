"""The two interfaces the package quantizes through: ActivationQuantizer and WeightQuantizer (spec 2.1, 2.2).

State: every entry of a state_dict is a tensor whose shape is known at construction.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..core import native
from ..core.affine import fake_quantize
from ..core.channels import per_channel
from ..core.folded_rounding import LargestWeightGrid
from ..core.params import QuantParams
from ..errors import ConfigError
from .distributed import is_distributed
from .module_walk import all_modules
from .observers.observation import as_float, finite_samples, float_samples, is_quantizable
from .quantizer import AFTER_A_BAD_STEP, Quantizer
from .weight_grid import GridOrigin


class ActivationQuantizer(Quantizer):
    """Quantizes one activation: watches batches during calibration, then rounds to the grid.

    An algorithm implements `_take`, `_grid`, `_round` and `_force_symmetric`.
    """

    symmetric: Tensor
    _quantizes, _after_nan = "input", "Look for the reason in the layers in front of it, or in the data."

    def __init__(
        self,
        *,
        num_bits: int,
        layer_name: str = "",
        is_symmetric: bool = False,
        is_calibrated: bool = False,
        settings: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(num_bits=num_bits, layer_name=layer_name, is_calibrated=is_calibrated, settings=settings)
        self.register_buffer("symmetric", torch.tensor(float(is_symmetric)))

    @property
    def is_symmetric(self) -> bool:
        """Whether the offset is 0 by construction."""
        symmetric = self._buffers["symmetric"]
        assert symmetric is not None
        return symmetric.item() > 0

    def use(self, is_in_use: bool) -> None:
        """Tells the quantizer whether its input is a floating tensor; if not, its parameters need no gradient.

        Else DistributedDataParallel would wait for gradients that never come.
        """
        if is_in_use != self._is_in_use:
            self._is_in_use = is_in_use
            self._mark_learned()

    def observe(self, x: Any) -> None:
        """Takes one calibration batch; ignored when calibration is finished or ``x`` is no floating tensor.

        Raises:
          CalibrationError: ``x`` holds NaN or inf.
        """
        if self.is_finished:
            return
        observer = self._modules.get("observer")
        is_checked_later = getattr(observer, "refuses_non_finite", False)
        samples = float_samples(x) if is_checked_later else finite_samples(x, self.layer_name)
        if samples is None:
            if not (is_quantizable(x) and getattr(observer, "merges_processes", False) and is_distributed()):
                return
            samples = x.detach().to(torch.float32)  # an empty batch: the other processes wait for this one
        with no_gradients():
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

    def step_and_ends(self) -> tuple[float, int, int]:
        """Returns the grid in force as numbers: scale, Qmin - offset and Qmax - offset.

        Raises:
          CalibrationError: Calibration is not finished.
        """
        params = self.params()
        spec, zero = params.spec, int(params.offset)
        return params.scale.item(), spec.qmin - zero, spec.qmax - zero

    def rounded(self, x: Tensor) -> Tensor:
        """Returns ``fake_quantize(x)`` of a floating tensor, where no gradient is wanted."""
        rounded: Tensor = self.fake_quantize(x)
        return rounded

    def fake_quantize(self, x: Any) -> Any:
        """Returns the nearest grid points of ``x`` in a new tensor of its type.

        Anything but a floating tensor is returned unchanged. The algorithm defines the gradient. Computes in float32,
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
        """Puts the values of ``fake_quantize(x)`` into the floating tensor ``x`` and returns ``x``; without gradient.

        In place, since allocating memory for a large tensor takes longer than quantizing it.
        """
        if native.handles(x):
            native.fake_quantize(x, x, *self.step_and_ends())
            return x
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
        if self.is_calibrated and (self.is_fixed or self._was_given_elsewhere) and int(self.params().offset):
            msg = (
                f"Layer '{self.layer_name}' needs a symmetric activation grid (a Linear on more than 2 dimensions is "
                f"exported as MatMul, which takes offset 0 only), but offset {int(self.params().offset)} was given. "
                "Use an offset of 0, calibrate the layer again, or reshape its input to 2 dimensions."
            )
            raise ConfigError(msg)
        with torch.no_grad():
            self._force_symmetric()
        self._set_symmetric(True)

    def raise_lower_end(self, low: float) -> bool:
        """Makes the range that calibration found begin at ``low``; returns False, and changes nothing, if it cannot.

        It cannot if the range is symmetric, given or learned otherwise, or begins at ``low`` or above already.
        """
        return False

    def _params_in_force(self) -> QuantParams:
        return self._grid()

    def forward(self, x: Any) -> Any:
        """Observes and quantizes as ``observer_enabled`` and ``fake_quant_enabled`` say, like torch's FakeQuantize.

        While the observer is enabled and calibration is not finished, ``x`` is returned in float.
        """
        is_observing = bool(self.observer_enabled[0])
        if is_observing:
            self.observe(x)
        if not bool(self.fake_quant_enabled[0]) or (is_observing and not self.is_calibrated):
            return x
        return self.fake_quantize(x)

    def _mark_learned(self) -> None:
        """Sets ``requires_grad`` of the parameters."""
        for module in all_modules(self):
            for parameter in module._parameters.values():
                if parameter is not None and parameter.requires_grad != self._is_in_use:
                    parameter.requires_grad_(self._is_in_use)

    @abstractmethod
    def _take(self, samples: Tensor) -> bool:
        """Takes one batch of finite float32; returns whether the grid is known now."""

    @abstractmethod
    def _grid(self) -> QuantParams:
        """Returns the grid of the present state, without gradient."""

    @abstractmethod
    def _round(self, x: Tensor) -> Tensor:
        """Returns ``x`` rounded to the grid, differentiable."""

    @abstractmethod
    def _force_symmetric(self) -> None:
        """Makes the observer and the learned values symmetric."""

    def _set_symmetric(self, is_symmetric: bool) -> None:
        self.symmetric.fill_(int(is_symmetric))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.is_symmetric:
            with torch.no_grad():
                self._force_symmetric()


class WeightQuantizer(Quantizer):
    """Quantizes one weight, which callers pass with output channels first: [C_out, ...].

    Attributes:
      channel_wise: Whether there is one scale per output channel.
      grid_origin: Where the grid comes from.
    """

    channel_wise = False
    grid_origin = GridOrigin.OTHER
    _quantizes, _after_nan = "weight", AFTER_A_BAD_STEP
    _present_params: Callable[[], QuantParams] | None = None

    def observe(self, weight: Tensor) -> None:
        """Finds the state that the weight determines (clusters, a first range); ignored once that is known.

        Raises:
          CalibrationError: ``weight`` holds NaN or inf.
        """
        if self.is_calibrated:
            return
        samples = finite_samples(weight, self.layer_name)
        if samples is None:
            return
        with no_gradients():
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
        """Returns the nearest grid points of ``weight``; the algorithm defines the gradient.

        ``params`` is the result of `params` for this weight, perhaps with enlarged scales (spec 4.4); None computes it.
        """
        if params is None:
            trains = self.training and torch.is_grad_enabled()
            with self.training_forward(weight) if trains else contextlib.nullcontext():
                return self.fake_quantize(weight, self.params(weight))
        self._look_for_nan(weight)
        return self._round(as_float(weight), params).to(weight.dtype)

    @property
    def largest_weight_grid(self) -> LargestWeightGrid | None:
        """The grid, if the largest absolute weight determines all of it; None if it depends on more."""
        return None

    @property
    def grid_settings(self) -> Hashable | None:
        """Everything besides weight and bias on which `params` and `fake_quantize` depend; None if there is more."""
        return None

    def adopt(self, params: QuantParams, weight: Tensor) -> None:
        """Uses ``params`` as the grid of ``weight`` from now on; only for quantizers with ``grid_origin`` STATE."""
        raise NotImplementedError(f"{type(self).__name__} keeps no grid of its own.")

    def training_forward(self, weight: Tensor, factor: Tensor | None = None) -> AbstractContextManager[None]:
        """Returns the context in which a training forward computes the grid and rounds.

        Args:
          weight: [C_out, ...], the parameter, which changes only with an optimizer step.
          factor: [C_out], the factor by which a BatchNorm multiplies ``weight``; None without a BatchNorm.
        """
        return contextlib.nullcontext()

    def folded_params(self, weight: Tensor, factor: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns ``params(weight * factor, bias)``, where ``factor`` [C_out] is the factor of a BatchNorm."""
        return self.params(weight.detach() * per_channel(factor.detach(), weight), bias)

    def fake_quantize_unfolded(self, weight: Tensor, factor: Tensor, inverse: Tensor, params: QuantParams) -> Tensor:
        """Returns ``fake_quantize(weight * factor, params) * inverse``: the weight in front of a training BatchNorm."""
        folded = self.fake_quantize(weight * per_channel(factor, weight), params)
        return folded * per_channel(inverse, folded)

    def belongs_to(self, present_params: Callable[[], QuantParams]) -> None:
        """Connects the quantizer to its layer: ``present_params`` returns the grid of the layer's present weight."""
        self._present_params = present_params

    def _params_in_force(self) -> QuantParams | None:
        """Returns the grid of the layer's present weight; without a layer the stored grid, None if none is stored."""
        if self._present_params is not None:
            return self._present_params()
        scale = self._scale_in_force()
        if scale is None:
            return None
        return QuantParams(scale=scale, offset=torch.zeros_like(scale, dtype=torch.int32), num_bits=self.num_bits)

    def forward(self, weight: Tensor) -> Tensor:
        """Observes and quantizes as ``observer_enabled`` and ``fake_quant_enabled`` say, like torch's FakeQuantize."""
        if bool(self.observer_enabled[0]):
            self.observe(weight)
        return self.fake_quantize(weight) if bool(self.fake_quant_enabled[0]) else weight

    @abstractmethod
    def _take(self, samples: Tensor) -> bool:
        """Takes the finite float32 weight; returns whether everything is known now."""

    @abstractmethod
    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns the grid of this weight, without gradient."""

    @abstractmethod
    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        """Returns the weight rounded to the grid, differentiable."""

    @abstractmethod
    def _scale_in_force(self) -> Tensor | None:
        """Returns the stored scale; for ARQ that of the last weight it observed, None if it has observed none."""


def no_gradients() -> AbstractContextManager[None]:
    """Disables gradients, and inference mode too: tensors made inside can be used outside of an inference mode."""
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return _without_gradients()
    return contextlib.nullcontext()


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield
