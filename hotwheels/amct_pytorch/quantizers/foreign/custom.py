"""Adapters for quantizer classes of users and of torch, named by a dotted path (spec 6.6).

HiSilicon's AMCT manual, chapter "User-defined quantization algorithms" [自定义量化算法].

The adapters take only scale and zero point from the class and round with this package's own kernel, whatever the class
computes in its forward: so training and the exported model agree bit for bit. The gradients are those of the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.affine import canonical_scale, fake_quantize
from ...core.channels import per_channel
from ...core.params import QuantParams
from ...core.spec import ACTIVATION_BITS, WEIGHT_BITS
from ...errors import ConfigError
from ...log import get_logger
from ..base import ActivationQuantizer, WeightQuantizer
from ..learning import gradients
from .dotted_path import import_quantizer, resolve_arguments

_LOGGER = get_logger(__name__)
_UNSIGNED = (torch.quint8, torch.quint4x2, torch.quint2x4, torch.uint8, torch.uint16)
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)


class CustomActivationQuantizer(ActivationQuantizer):
    """Quantizes an activation by a class from outside this package; it observes every calibration batch.

    Args:
      path: Dotted path of the class.
      args: Its constructor's arguments; a dotted string is replaced by the object it names.
      object_layer: Layer named in messages.

    Raises:
      ConfigError: The class cannot be imported or built, or is not linear, signed and per tensor.
    """

    whole_numbers = ("known_offset",)
    known_scale: Tensor
    known_offset: Tensor

    def __init__(self, path: str, args: Mapping[str, Any], object_layer: str = "") -> None:
        module = _construct(path, args, object_layer)
        if getattr(module, "qscheme", None) in _PER_CHANNEL:
            msg = f"Layer '{object_layer}': {path} quantizes per channel, which weights allow, but activations do not."
            raise ConfigError(msg)
        self.algorithm = path
        super().__init__(
            num_bits=_num_bits(module, ACTIVATION_BITS, object_layer),
            layer_name=object_layer,
            is_symmetric=getattr(module, "qscheme", None) == torch.per_tensor_symmetric,
        )
        self.path = path
        self.module = module
        self.register_buffer("known_scale", torch.ones(()))
        self.register_buffer("known_offset", torch.zeros(()))

    def _take(self, samples: Tensor) -> bool:
        _observe(self.module, samples)
        self._read_grid()
        return True

    def _read_grid(self) -> None:
        scale, offset = _found_grid(self.module, self.layer_name)
        if scale.numel() != 1:
            msg = f"Layer '{self.layer_name}': {self.path} found {scale.numel()} scales; an activation takes one."
            raise ConfigError(msg)
        if self.is_symmetric and int(offset):
            msg = (
                f"Layer '{self.layer_name}' needs offset 0, but {self.path} found zero_point {int(offset)}; configure "
                "a symmetric qscheme (torch.per_tensor_symmetric)."
            )
            raise ConfigError(msg)
        self.known_scale.copy_(scale.reshape(()))
        self.known_offset.copy_(offset.reshape(()))

    @property
    def is_finished(self) -> bool:
        """Whether the grid was loaded or given: a grid found here is updated by every calibration batch."""
        return self._was_given_elsewhere

    def _grid(self) -> QuantParams:
        if _has_learned_values(self.module):
            self._read_grid()
        offset = self.known_offset.round().to(torch.int32)
        return QuantParams(scale=canonical_scale(self.known_scale), offset=offset, num_bits=self.num_bits)

    def _round(self, x: Tensor) -> Tensor:
        return _round_like(self.module, x, self.params())

    def _force_symmetric(self) -> None:
        """Raises now, or when the grid is read, if the offset is not 0: a foreign class cannot be made symmetric."""
        self._set_symmetric(True)
        if self.is_calibrated and self._found_here:
            self._read_grid()


class CustomWeightQuantizer(WeightQuantizer):
    """Quantizes a weight by a class from outside, per tensor or per output channel (axis 0).

    Args:
      path: Dotted path of the class.
      args: Its constructor's arguments; a dotted string is replaced by the object it names.
      object_layer: Layer named in messages.
      channels: Number of output channels.
      allows_channel_wise: Whether one scale per channel is allowed (Linear: no).

    Raises:
      ConfigError: The class cannot be imported or built, or is not linear and signed.
    """

    known_scale: Tensor

    def __init__(
        self,
        path: str,
        args: Mapping[str, Any],
        object_layer: str = "",
        channels: int = 1,
        allows_channel_wise: bool = True,
    ) -> None:
        module = _construct(path, args, object_layer)
        super().__init__(num_bits=_num_bits(module, WEIGHT_BITS, object_layer), layer_name=object_layer)
        self.path = path
        self.module = module
        self.channel_wise = _is_per_channel(module, path, object_layer, allows_channel_wise)
        self.register_buffer("known_scale", torch.ones(channels if self.channel_wise else ()))

    def _take(self, samples: Tensor) -> bool:
        _observe(self.module, samples)
        self._read_scale()
        return True

    def _read_scale(self) -> None:
        scale, offset = _found_grid(self.module, self.layer_name)
        if bool(offset.any()):
            msg = f"Layer '{self.layer_name}': {self.path} found a zero_point other than 0; weights must be symmetric."
            raise ConfigError(msg)
        if scale.numel() != self.known_scale.numel():
            msg = (
                f"Layer '{self.layer_name}': {self.path} found {scale.numel()} scales for the weight, "
                f"{self.known_scale.numel()} are expected."
            )
            raise ConfigError(msg)
        self.known_scale.copy_(scale.reshape(self.known_scale.shape))

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        if _has_learned_values(self.module):
            self._read_scale()
        scale = canonical_scale(self.known_scale)
        return QuantParams(scale=scale, offset=torch.zeros_like(scale, dtype=torch.int32), num_bits=self.num_bits)

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        return _round_like(self.module, weight, params)

    def _scale_in_force(self) -> Tensor:
        return self.known_scale


def _construct(path: str, args: Mapping[str, Any], layer: str) -> Any:
    cls = import_quantizer(path, layer)
    arguments = resolve_arguments(args, path, layer)
    try:
        module: Any = cls(**arguments)
    except Exception as error:  # a class from outside may raise anything
        raise ConfigError(f"Layer '{layer}': {path}({_shown(args)}) cannot be built: {error}") from error
    missing = [name for name in ("scale", "zero_point") if not hasattr(module, name)]
    if missing or not callable(module):
        lack = f"no attribute {' and '.join(missing)}" if missing else "no forward"
        msg = f"Layer '{layer}': {path} has {lack}; derive the class from torch.quantization.FakeQuantizeBase."
        raise ConfigError(msg)
    if getattr(module, "dtype", None) in _UNSIGNED:
        msg = f"Layer '{layer}': {path} quantizes to {module.dtype}; only signed types (torch.qint8) are supported."
        raise ConfigError(msg)
    return module


def _shown(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in args.items())


def _num_bits(module: Any, allowed: tuple[int, ...], layer: str) -> int:
    """Returns the smallest allowed width for the integers of ``module``: its quant_min and quant_max, or int8."""
    low, high = int(getattr(module, "quant_min", -128)), int(getattr(module, "quant_max", 127))
    if low >= 0:
        msg = (
            f"Layer '{layer}': {type(module).__name__} quantizes to [{low}, {high}]; unsigned integers are not "
            "supported, use quant_min -128, quant_max 127 and dtype torch.qint8."
        )
        raise ConfigError(msg)
    bits = next((one for one in allowed if -(1 << (one - 1)) <= low and high < 1 << (one - 1)), None)
    if bits is None:
        msg = f"Layer '{layer}': [{low}, {high}] of {type(module).__name__} needs more than {max(allowed)} bits."
        raise ConfigError(msg)
    if (low, high) != (-(1 << (bits - 1)), (1 << (bits - 1)) - 1):
        _LOGGER.warning("Layer '%s': the range [%d, %d] is widened to that of %d bits.", layer, low, high, bits)
    return bits


def _is_per_channel(module: Any, path: str, layer: str, allows_channel_wise: bool) -> bool:
    if getattr(module, "qscheme", None) not in _PER_CHANNEL:
        return False
    if not allows_channel_wise:
        msg = f"Layer '{layer}' has no channels: {path} must quantize per tensor (qscheme torch.per_tensor_symmetric)."
        raise ConfigError(msg)
    if getattr(module, "ch_axis", 0) != 0:
        msg = f"Layer '{layer}': weights are handed over output channels first, so ch_axis of {path} must be 0."
        raise ConfigError(msg)
    return True


def _observe(module: Any, samples: Tensor) -> None:
    """One forward with the observer on and fake quantization off, for classes that have the switches."""
    _switch(module, observes=True, quantizes=False)
    try:
        module(samples)
    finally:
        _switch(module, observes=False, quantizes=True)


def _switch(module: Any, observes: bool, quantizes: bool) -> None:
    for name, is_on in (("observer", observes), ("fake_quant", quantizes)):
        switch = getattr(module, f"{'enable' if is_on else 'disable'}_{name}", None)
        if switch is not None:
            switch()


def _found_grid(module: Any, layer: str) -> tuple[Tensor, Tensor]:
    """Returns (canonical scale, int32 offset) that the class has found, on its device and in its shape."""
    calculate = getattr(module, "calculate_qparams", None)
    scale, offset = calculate() if calculate is not None else (module.scale, module.zero_point)
    scale = torch.as_tensor(scale).detach().to(torch.float32)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        msg = f"Layer '{layer}': {type(module).__name__} found the scale {scale.tolist()}, not positive and finite."
        raise ConfigError(msg)
    return canonical_scale(scale), torch.round(torch.as_tensor(offset).detach().to(torch.float32)).to(torch.int32)


def _has_learned_values(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(True for _ in module.parameters())


def _round_like(module: Any, x: Tensor, params: QuantParams) -> Tensor:
    """Returns ``x`` rounded by this package's kernel, with the gradients of the class."""
    scale, offset = per_channel(params.scale, x), per_channel(params.offset, x)
    value = fake_quantize(x.detach(), scale, offset, params.num_bits)
    if not torch.is_grad_enabled():
        return value
    _switch(module, observes=False, quantizes=True)
    return gradients.replace_value(value, module(x))
