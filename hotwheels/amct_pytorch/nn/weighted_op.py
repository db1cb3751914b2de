"""WeightedOp: a convolution or Linear, together with the BatchNorm folded into it (spec 6.7)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batch_norm import channel_factor, fold, fold_bias, inverse_factor, is_lost
from ..core.channels import from_output_first, to_output_first
from ..ops.desc import Role
from ..quantizers.learning.gradients import quantized_again
from ..quantizers.learning.recompute import recomputing


class WeightedOp:
    """Computes the operation of ``module`` with any weight and bias, and folds ``batch_norm`` into its own.

    It is no nn.Module: ``module`` and ``batch_norm`` stay registered under their own paths, so that the state_dict
    keeps the names of the float model. Weights go in and out output-channels-first, [C_out, ...].

    Attributes:
      module: The convolution or Linear.
      role: Which of these it is.
      batch_norm: The BatchNorm behind it, None without one.
    """

    def __init__(
        self,
        module: Callable[..., Any],
        role: Role,
        batch_norm: nn.Module | None = None,
        forward: Callable[..., Any] | None = None,
        normalize: Callable[..., Any] | None = None,
    ) -> None:
        """``forward`` and ``normalize`` call the two modules where calling these would come back here; else None."""
        # Any: classes of torch, of users and ours, which have the attributes of their role under the same names.
        self.module: Any = module
        self.batch_norm: Any = batch_norm
        self.role = role
        self._forward = forward
        self._normalize = normalize

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self._own_weight().shape[0]

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Shape that makes a [C_out] tensor broadcast against the output."""
        return (-1,) if self.role is Role.LINEAR else (-1, 1, 1)

    def adds_bias_in_float(self, x: Tensor) -> bool:
        """Whether the bias of the operation on ``x`` is no part of the int32 accumulator.

        A Linear of rank above 2 is MatMul and a float Add on the chip (spec 8.3); a Linear of a vector is exported
        like that.
        """
        return self.role is Role.LINEAR and x.dim() != 2

    @property
    def trains_batch_norm(self) -> bool:
        """Whether the BatchNorm works on batch statistics now."""
        return self.batch_norm is not None and self.batch_norm.training

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Returns weight [C_out, ...] and bias [C_out] or None, with the running statistics folded in."""
        weight = self._own_weight()
        if self.batch_norm is None:
            return weight, self.module.bias
        norm = self.batch_norm
        return fold(weight, self.module.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)

    def forward_float(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The operation as the float model computes it."""
        result: Tensor = (self._forward or self.module)(*args, **kwargs)
        return result if self.batch_norm is None else self._normalized(result)

    def unfolded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns weight [C_out, ...] as it is, the factor [C_out] which folding multiplies it by, and its inverse."""
        norm = self.batch_norm
        assert norm is not None
        factor = channel_factor(norm.running_var, norm.weight, norm.eps)
        return self._own_weight(), factor, inverse_factor(norm.running_var, norm.weight, norm.eps)

    def folded_bias(self, factor: Tensor) -> Tensor:
        """Returns the bias [C_out] with the running statistics folded in; ``factor`` as `unfolded` returns it."""
        norm = self.batch_norm
        assert norm is not None
        return fold_bias(self.module.bias, norm.running_mean, factor, norm.bias)

    def forward_training(
        self, x: Tensor, weight: Tensor, output_size: list[int] | None = None, has_one_scale: bool = False
    ) -> Tensor:
        """Returns ``bn(conv(x, weight))``, on the statistics of the batch; ``weight`` is rounded and not folded.

        Where the whole weight ``has_one_scale``, channels that are lost in rounding keep their running statistics.
        """
        assert self.batch_norm is not None
        result = self.apply(x, weight, self.module.bias, output_size)
        if not has_one_scale:
            return self._normalized(result)
        with torch.no_grad():
            is_kept = is_lost(self._own_weight(), weight)
        with _keeping(self.batch_norm, is_kept):
            return self._normalized(result)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None = None) -> Tensor:
        """Returns the operation on ``x`` with this ``weight`` [C_out, ...] and ``bias`` instead of the module's own."""
        with recomputing((x, weight), quantized_again):
            return self._apply(x, weight, bias, output_size)

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None) -> Tensor:
        module = self.module
        if self.role is Role.LINEAR:
            return F.linear(x, weight, bias)
        weight = from_output_first(weight, module.groups, self.role is Role.CONV_TRANSPOSE)
        if self.role is Role.CONV:
            return _convolve(module, x, weight, bias)
        padding = module._output_padding(
            x, output_size, module.stride, module.padding, module.kernel_size, 2, module.dilation
        )
        return F.conv_transpose2d(
            x, weight, bias, module.stride, module.padding, padding, module.groups, module.dilation
        )

    def _normalized(self, x: Tensor) -> Tensor:
        assert self.batch_norm is not None
        y: Tensor = (self._normalize or self.batch_norm)(x)
        return y

    def _own_weight(self) -> Tensor:
        weight: Tensor = self.module.weight
        if self.role is Role.LINEAR:
            return weight
        return to_output_first(weight, self.module.groups, self.role is Role.CONV_TRANSPOSE)


@contextlib.contextmanager
def _keeping(norm: nn.Module, is_kept: Tensor) -> Iterator[None]:
    """Inside it the running statistics of the channels ``is_kept``, bool [C], do not change."""
    statistics = {name: norm.get_buffer(name) for name in ("running_mean", "running_var")}
    # The backward wants the tensors that the BatchNorm has updated as they are then: it works on copies.
    norm._buffers.update({name: value.clone() for name, value in statistics.items()})
    try:
        yield
        for name, value in statistics.items():
            value.copy_(torch.where(is_kept, value, norm.get_buffer(name)))
    finally:
        norm._buffers.update(statistics)


def _convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``padding="same"`` is given in numbers if both sides have the same: ONNX's auto_pad does not go with dilation."""
    left, right, top, bottom = module._reversed_padding_repeated_twice
    if module.padding != "same" or module.padding_mode != "zeros" or left != right or top != bottom:
        y: Tensor = module._conv_forward(x, weight, bias)
        return y
    return F.conv2d(x, weight, bias, module.stride, (top, left), module.dilation, module.groups)
