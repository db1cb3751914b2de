"""WeightedOp: a convolution or Linear, together with the normalizations folded into it (spec 6.7)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batch_norm import is_lost
from ..core.channels import from_output_first, per_channel, to_output_first
from ..core.folded_rounding import LargestWeightGrid, Norm, RoundedWeight, round_folded
from ..core.statistics.extremes import row_extremes
from ..ops.desc import Role
from ..quantizers.learning.gradients import quantized_again
from ..quantizers.learning.recompute import recomputing
from .convolution import convolve, convolve_transposed
from .norm_chain import BatchNormStage, NormChain, PassStage, Stage, times_outputs

_CONV_2D = 4  # axes of the weight


class WeightedOp:
    """Computes the operation of ``module`` with any weight and bias, and folds adjacent norms into its weight and bias.

    This class is no nn.Module: ``module`` and the norms stay registered under their own paths, so that the state_dict
    keeps the names of the float model. All weights have the output channels first, [C_out, ...].

    Attributes:
      module: The convolution or Linear.
      role: CONV, CONV_TRANSPOSE or LINEAR.
      behind: The normalizations behind the module, None without any.
      front: The normalizations in front of the module, which are folded too; None without any.
    """

    def __init__(
        self,
        module: Callable[..., Any],
        role: Role,
        behind: Sequence[Stage] = (),
        front: Sequence[Stage] = (),
        forward: Callable[..., Any] | None = None,
    ) -> None:
        """Joins the operation with the members of the two chains.

        Args:
          module: The convolution or Linear.
          role: CONV, CONV_TRANSPOSE or LINEAR.
          behind: The stages behind the module, in the order of the data.
          front: The stages in front of the module, in the order of the data.
          forward: Calls ``module`` if ``module(x)`` would call the quantized layer instead; else None.
        """
        self.module: Any = module
        self.role = role
        self._forward = forward
        weight = self._own_weight()  # read once for its shape: a computed weight is computed in each read
        self._out_channels, self._group_inputs, self._axes = weight.shape[0], weight.shape[1], weight.dim() - 2
        self.behind = NormChain(behind, self.out_channels, self.channel_shape) if behind else None
        self.front = NormChain(front, self.in_channels, self.channel_shape) if front else None

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self._out_channels

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self._group_inputs * self.groups

    @property
    def groups(self) -> int:
        """Number of groups of channels."""
        return int(getattr(self.module, "groups", 1))

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Shape that makes a [C_out] tensor broadcast against the output."""
        return (-1, *[1] * self._axes)

    @property
    def is_folded(self) -> bool:
        """Whether a normalization is folded into the weight."""
        return self.behind is not None or self.front is not None

    def adds_bias_in_float(self, x: Tensor) -> bool:
        """Whether the bias of the operation on ``x`` is no part of the int32 accumulator.

        A Linear of rank above 2 is MatMul and a float Add on the chip (spec 8.3); a Linear of a vector is exported
        like that.
        """
        return self.role is Role.LINEAR and x.dim() != 2

    @property
    def trains_batch_norm(self) -> bool:
        """Whether a normalization now uses the statistics of the batch."""
        front, behind = self.front, self.behind
        return (front is not None and front.is_training) or (behind is not None and behind.is_training)

    @functools.cached_property
    def _norm_stages(self) -> list[BatchNormStage]:
        stages = () if self.behind is None else self.behind.stages
        return [stage for stage in stages if isinstance(stage, BatchNormStage)]

    @functools.cached_property
    def _folds_norms_only(self) -> bool:
        """Whether BatchNorms behind the module are folded, and nothing besides that changes its input in evaluation."""
        stages = () if self.behind is None else self.behind.stages
        return self.front is None and all(type(stage) in (BatchNormStage, PassStage) for stage in stages)

    @property
    def norms(self) -> list[nn.Module]:
        """The BatchNorms behind the module that are folded, whatever statistics they use now."""
        return [stage.module for stage in self._norm_stages]

    @property
    def constant_norms(self) -> list[nn.Module]:
        """The BatchNorms behind the module that are folded with constant statistics, so that none of them is called."""
        stages = () if self.behind is None or self.trains_batch_norm else self.behind.stages
        return [stage.module for stage in stages if isinstance(stage, BatchNormStage)]

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Returns weight [C_out, ...] and bias [C_out] or None, with constant statistics folded in."""
        weight, bias = self._behind_front()
        if self.behind is None:
            return weight, bias
        return times_outputs(weight, self.behind.factor()), self.behind.shifted(bias)

    def rounded(self, data_scale: float, grid: LargestWeightGrid) -> RoundedWeight | None:
        """Returns weight and bias of `folded`, rounded, without gradient; None if `round_folded` cannot compute them.

        ``data_scale`` is the scale of the input, ``grid`` the grid of the folded weight.
        """
        if not self._folds_norms_only or len(self._norm_stages) > 1 or self.role is Role.CONV_TRANSPOSE:
            return None
        norm = None
        for stage in self._norm_stages:
            one = stage.module
            norm = Norm(one.running_mean, one.running_var, one.weight, one.bias, one.eps)
        module = self.module
        return round_folded(module.weight, module.bias, norm, data_scale, grid)

    def folded_from(self) -> tuple[list[Tensor | None], Hashable] | None:
        """Returns all tensors and all settings on which the result of `folded` depends.

        None if that is not known: with a chain in front, or with anything but BatchNorms and calls that return their
        input in evaluation behind.
        """
        if not self._folds_norms_only:
            return None
        tensors = [self.module.weight, self.module.bias]
        for norm in self.norms:
            tensors += norm.running_mean, norm.running_var, norm.weight, norm.bias
        return tensors, tuple(norm.eps for norm in self.norms)

    def scaled_rows(self) -> tuple[Tensor, Tensor] | None:
        """Returns the weight of a 2-D convolution and the factor [C_out, 1, 1, 1] by which folding multiplies it.

        None for other operations, or if folding changes the weight in another way or not at all.
        """
        weight: Tensor = self.module.weight
        factor = None if self.behind is None or self.front is not None else self.behind.factor()
        if factor is None or self.role is not Role.CONV or weight.dim() != _CONV_2D or weight.dtype != torch.float32:
            return None
        return weight, per_channel(factor, weight)

    def is_finite(self) -> bool:
        """Whether the folded weight and bias are finite; only the extremes of each channel are computed and checked."""
        weight, bias = self._behind_front()
        factor = None if self.behind is None else self.behind.factor()
        extremes = times_outputs(torch.stack(row_extremes(weight.flatten(1)), 1), factor)
        bias = bias if self.behind is None else self.behind.shifted(bias)
        return bool(extremes.isfinite().all()) and (bias is None or bool(bias.isfinite().all()))

    def forward_float(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Returns the result of the operation and its norms as the float model computes them."""
        if self.front is not None:
            args, kwargs = _with_input(args, kwargs, self.front.run)
        result = (self._forward or self.module)(*args, **kwargs)
        return result if self.behind is None else self.behind.run(result)

    def unfolded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the weight, the factor by which folding the chain behind multiplies it, and that factor's inverse.

        The weight is [C_out, ...] with the chain in front folded in; the factor and its inverse are [C_out].
        """
        weight = self._behind_front(with_bias=False)[0]
        factor = None if self.behind is None else self.behind.factor()
        if self.behind is None or factor is None:
            ones = weight.new_ones(len(weight))
            return weight, ones, ones
        inverse = self.behind.inverse()
        assert inverse is not None
        return weight, factor, inverse

    def folded_bias(self) -> Tensor | None:
        """Returns the bias [C_out] with constant statistics folded in; None if there is none."""
        bias = self.module.bias if self.front is None else self._behind_front()[1]
        return bias if self.behind is None else self.behind.shifted(bias)

    @property
    def stored_weight(self) -> nn.Parameter | None:
        """The parameter that is the weight; None if the weight is computed, or a norm in front is folded into it."""
        weight = self.module.weight
        return weight if isinstance(weight, nn.Parameter) and self.front is None else None

    @torch.no_grad()
    def set_folded(self, weight: Tensor) -> None:
        """Changes `stored_weight` such that `folded` returns ``weight`` [C_out, ...], up to float32 rounding.

        The weight of a channel that is multiplied by 0 stays as it is.
        """
        stored = self.stored_weight
        assert stored is not None
        inverse = None if self.behind is None else self.behind.inverse()
        if inverse is not None:
            by_channel = per_channel(inverse, weight)
            weight = torch.where(by_channel == 0, self._own_weight(), weight * by_channel)
        groups = getattr(self.module, "groups", 1)
        stored.copy_(from_output_first(weight.to(stored.dtype), groups, self.role is Role.CONV_TRANSPOSE))

    def stored_bias(self) -> tuple[nn.Parameter, Tensor | None] | None:
        """Returns the last bias parameter, and the inverse of the factor of the stages behind it (None means 1).

        Returns None if neither the norms behind nor the module have a bias parameter.
        """
        stages = () if self.behind is None else self.behind.stages
        for index in reversed(range(len(stages))):
            stage = stages[index]
            bias = stage.module.bias if isinstance(stage, BatchNormStage) else None
            if isinstance(bias, nn.Parameter):
                return bias, NormChain(stages[index + 1 :], self.out_channels, self.channel_shape).inverse()
        bias = self.module.bias
        if not isinstance(bias, nn.Parameter):
            return None
        return bias, None if self.behind is None else self.behind.inverse()

    @torch.no_grad()
    def add_to_bias(self, change: Tensor) -> None:
        """Changes the parameter of `stored_bias` such that ``change`` [C_out] is added to the output."""
        found = self.stored_bias()
        assert found is not None
        bias, inverse = found
        bias.add_((change if inverse is None else change * inverse).to(bias.dtype))

    def forward_training(
        self, x: Tensor, weight: Tensor, output_size: list[int] | None = None, has_one_scale: bool = False
    ) -> Tensor:
        """Returns the result of the operation and its norms on ``x``, with the statistics of the batch.

        ``weight`` is the weight of `unfolded`, rounded. If the whole weight ``has_one_scale``, channels whose rounding
        error is as large as the channel (`is_lost`) keep their running statistics.
        """
        if self.front is not None:
            # In this order, since front.run updates the statistics with which the weight was folded.
            weight, x = self._along_inputs(weight, self.front.inverse()), self.front.run(x)
        result = self.apply(x, weight, self.module.bias, output_size)
        if self.behind is None:
            return result
        if not has_one_scale:
            return self.behind.run(result)
        with torch.no_grad():
            is_kept = is_lost(self._own_weight(), weight)
        with self.behind.keeping(is_kept):
            return self.behind.run(result)

    def apply(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output_size: list[int] | None = None,
        functions: Any = F,
    ) -> Tensor:
        """Returns the operation on ``x`` with this ``weight`` [C_out, ...] and ``bias`` instead of the module's own.

        ``functions`` has the functions of torch.nn.functional that compute operations with weights.
        """
        if not torch.is_grad_enabled():
            return self._apply(x, weight, bias, output_size, functions)
        with recomputing((x, weight), quantized_again):
            return self._apply(x, weight, bias, output_size, functions)

    def _apply(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None, functions: Any
    ) -> Tensor:
        module = self.module
        if self.role is Role.LINEAR:
            result: Tensor = functions.linear(x, weight, bias)
            return result
        weight = from_output_first(weight, module.groups, self.role is Role.CONV_TRANSPOSE)
        if self.role is Role.CONV:
            return convolve(module, x, weight, bias, functions)
        return convolve_transposed(module, x, weight, bias, output_size, functions)

    def _behind_front(self, with_bias: bool = True) -> tuple[Tensor, Tensor | None]:
        """Returns weight and bias with the chain in front folded in; the bias is None without ``with_bias``."""
        weight, bias = self._own_weight(), self.module.bias if with_bias else None
        if self.front is None:
            return weight, bias
        shift = self.front.shifted(None) if with_bias else None
        if shift is not None:
            added = self._along_inputs(weight, shift).flatten(1).sum(1)
            bias = added if bias is None else bias + added
        return self._along_inputs(weight, self.front.factor()), bias

    def _along_inputs(self, weight: Tensor, values: Tensor | None) -> Tensor:
        """Returns ``weight`` [C_out, C_in / groups, ...] times ``values`` [C_in]; None means 1."""
        if values is None:
            return weight
        groups = getattr(self.module, "groups", 1)
        by_group = weight.reshape(groups, -1, *weight.shape[1:])
        return (by_group * values.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)

    def _own_weight(self) -> Tensor:
        weight: Tensor = self.module.weight
        if self.role is Role.LINEAR:
            return weight
        return to_output_first(weight, self.module.groups, self.role is Role.CONV_TRANSPOSE)


def _with_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "input" in kwargs:
        return args, {**kwargs, "input": change(kwargs["input"])}
    return (change(args[0]), *args[1:]), kwargs
