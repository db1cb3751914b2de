"""LayerWeight: the weight of one quantized layer, and the grid of that weight with its BatchNorm folded in."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..core import native
from ..core.affine import bias_scale_floor, quantize, quantize_bias
from ..core.channels import per_channel
from ..core.exact_product import RowSums, row_sums
from ..core.folded_rounding import RoundedWeight
from ..core.params import QuantParams
from ..core.search.codebook import assign, rescaled
from ..log import get_logger
from ..quantizers.base import ActivationQuantizer, WeightQuantizer, no_gradients
from ..quantizers.learning.gradients import replace_value
from ..quantizers.weight_grid import with_smallest_scale
from ..record import WeightRecord
from .kept_result import FingerprintedResult, KeptResult
from .weighted_op import WeightedOp

_log = get_logger(__name__)
# For an estimate: images of a batch, their height and width, rows of a Linear; channels of the output.
_IMAGES, _SIDE, _ROWS, _OUTPUTS = 2, 32, 128, 64
_LEAST_SHARE = 1e-6  # of an error that is not all shift


@dataclasses.dataclass(frozen=True)
class FrozenWeight:
    """The integers of a folded weight and their grid at one moment, without gradient; nobody changes its tensors.

    Attributes:
      op: The operation that the weight belongs to.
      integers: [C_out, ...], int8; codebook values if non-uniform (spec 6.3).
      bias: [C_out], the BatchNorm folded in; None without bias.
      params: The grid of the weight.
      packed: The forms in which kernels take the integers; kept as long as the weight.
      made_of_it: What other users have computed from it and keep as long as it lives.
    """

    op: WeightedOp
    integers: Tensor
    bias: Tensor | None
    params: QuantParams
    packed: dict[Hashable, Any] = dataclasses.field(default_factory=dict)
    made_of_it: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def sums(self) -> RowSums:
        """The sums of the positive and of the negative `integers` of each output channel."""
        return row_sums(self.integers.flatten(1))


def integer_weight(weight: Tensor, params: QuantParams) -> Tensor:
    """Returns the integers, in int8, of a weight [C_out, ...]; codebook values if non-uniform (spec 6.3)."""
    weight = weight.float()  # as the export stores the weights of a half precision model
    if params.codebook is not None:
        return assign(weight, params.scale, params.codebook).to(torch.int8)
    if native.handles(weight) and weight.is_contiguous():  # the offsets of weights are 0
        return torch.from_numpy(native.quantize_weight(weight.numpy(), params.scale.numpy(), params.spec.qmax))
    scale, offset = per_channel(params.scale, weight), per_channel(params.offset, weight)
    return quantize(weight, scale, offset, params.num_bits).to(torch.int8)


class LayerWeight:
    """Joins the operation that holds the weight, the weight's quantizer and the quantizer of the layer's input.

    This class is no nn.Module, so that all three stay registered under their own paths.

    Attributes:
      op: The operation, with the BatchNorm folded into it.
      quantizer: The weight quantizer.
      has_bare_grid: Whether the quantizer keeps the grid of the weight without its BatchNorm. The grid of the folded
        weight is then the bare grid times the BatchNorm's present factor (spec 6.7, last paragraph).
    """

    def __init__(self, layer: str, op: WeightedOp, quantizer: WeightQuantizer, data: ActivationQuantizer) -> None:
        """``layer`` is the layer's name for warnings, ``data`` the quantizer of the input beside the weight."""
        self.op = op
        self.quantizer = quantizer
        self.has_bare_grid = False
        self._layer = layer
        self._data = data
        self._frozen: FingerprintedResult[FrozenWeight] = FingerprintedResult()
        self._rounded: KeptResult[tuple[Tensor, Tensor | None]] = KeptResult()

    def params(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns the grid of the folded ``weight`` [C_out, ...]; its scales keep the bias in int32 (spec 4.3, 4.4)."""
        if self.has_bare_grid:
            return self.present_params()
        return self._with_room_for_bias(self.quantizer.params(weight, bias), bias)

    @torch.no_grad()
    def present_params(self) -> QuantParams:
        """Returns ``params(*op.folded())``, without making the folded weight if the quantizer does not need it."""
        if not self.op.is_folded:
            return self.params(*self.op.folded())
        weight, factor, _ = self.op.unfolded()
        return self._folded_params(weight, factor, self.op.folded_bias())

    def frozen(self, data: QuantParams | None = None) -> FrozenWeight:
        """Returns the integers of the current folded weight and their grid; ``data`` is the input's grid, if known."""
        sources, settings = self.op.folded_from(), None if self.has_bare_grid else self.quantizer.grid_settings
        if sources is None or settings is None:
            return self._freeze()
        tensors, folding = sources
        if data is None and self._data.is_calibrated:
            data = self._data.params()
        return self._frozen.get(tensors, (settings, folding, data and data.scale.item()), self._freeze)

    def _freeze(self) -> FrozenWeight:
        with no_gradients():
            weight, bias = self.op.folded()
            params = self.params(weight, bias)
            bias = None if bias is None else bias.clone()
            return FrozenWeight(self.op, integer_weight(weight.detach(), params), bias, params)

    def observe(self) -> None:
        """Lets the quantizer observe the weight; ignored if the quantizer is calibrated."""
        if not self.quantizer.is_calibrated:
            weight = self.op.unfolded()[0] if self.has_bare_grid else self.op.folded()[0]
            self.quantizer.observe(weight.detach())

    @torch.no_grad()
    def gain_without_shift(self, x: Tensor) -> float | None:
        """Returns how many dB of the weight's rounding error at the outputs for ``x`` go if channels keep their means.

        None if the rounding makes no error, or nothing else than a shift. An estimate from a part of two images and of
        the outputs.
        """
        spatial = len(self.op.channel_shape) - 1
        if self.has_bare_grid or self.op.trains_batch_norm:
            return None
        shift = self.op.apply(self._part_of(x, spatial), self._rounding_error(), None).float()
        axes = [axis for axis in range(shift.dim()) if axis != shift.dim() - 1 - spatial]
        means = shift.mean(axes, keepdim=True) if axes else shift
        rest = float(shift.sub_(means).square_().mean())
        whole = rest + float(means.square().mean())
        return 10.0 * math.log10(whole / rest) if rest > _LEAST_SHARE * whole else None

    def _rounding_error(self) -> Tensor:
        """Returns the rounded folded weight minus the weight; of a layer with many outputs, `_OUTPUTS` rows of it."""
        is_alone = self.quantizer.grid_settings is not None and self.op.groups == 1  # rounds each row by itself
        made = self._rounded_in_one_pass()
        if not is_alone or self.op.out_channels <= _OUTPUTS:
            weight, bias = self.op.folded()
            if made is not None:
                return made.weight - weight
            return self._rounded.get(*self._known(weight, bias), self._round)[0] - weight
        whole, factor, _ = self.op.unfolded()
        rows = torch.arange(_OUTPUTS, device=whole.device) * len(whole) // _OUTPUTS
        weight = whole[rows] * per_channel(factor[rows], whole)
        if made is not None:
            return made.weight[rows] - weight
        params = self._folded_params(whole, factor, self.op.folded_bias())
        if params.scale.dim():
            params = dataclasses.replace(params, scale=params.scale[rows], offset=params.offset[rows])
        return self.quantizer.fake_quantize(weight, params) - weight

    def _part_of(self, x: Tensor, spatial: int) -> Tensor:
        """Returns rows of the input of a Linear, or the middle of two images; the middle is larger than the kernel."""
        if not spatial:
            rows = x[:_IMAGES].flatten(0, -2) if x.dim() > 1 else x[None]
            return rows[:: -(-len(rows) // _ROWS) or 1]
        x = x[:_IMAGES] if x.dim() > spatial + 1 else x
        module = self.op.module
        for axis, kernel, dilation in zip(range(-spatial, 0), module.kernel_size, module.dilation, strict=True):
            side = min(max(_SIDE, dilation * (kernel - 1) + 1), x.shape[axis])
            x = x.narrow(axis, (x.shape[axis] - side) // 2, side)
        return x

    @torch.no_grad()
    def record(self) -> WeightRecord:
        """Returns the parameters of the weight, of the bare weight if it ``has_bare_grid``.

        Raises:
          CalibrationError: The weight quantizer is not calibrated.
        """
        if self.has_bare_grid:
            return _record(self.quantizer.params(self.op.unfolded()[0]))
        return self.folded_record()

    @torch.no_grad()
    def folded_record(self) -> WeightRecord:
        """Returns the parameters of the weight with the present BatchNorm folded into it."""
        return _record(self.present_params())

    def fake_quant(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Returns the operation on ``x`` with the fake-quantized weight and bias, differentiable."""
        if self.op.trains_batch_norm:
            weight, params = self._weight_before_batch_norm()
            return self.op.forward_training(x, weight, output_size, has_one_scale=not params.scale.dim())
        if not torch.is_grad_enabled():
            made = self._rounded_in_one_pass()
            if made is not None:
                bias = made.float_bias if self.op.adds_bias_in_float(x) else made.bias
                return self.op.apply(x, made.weight, bias, output_size)
        weight, bias = self.op.folded()
        rounded, rounded_bias = self._rounded.get(*self._known(weight, bias), self._round)
        return self.op.apply(x, rounded, bias if self.op.adds_bias_in_float(x) else rounded_bias, output_size)

    def _rounded_in_one_pass(self) -> RoundedWeight | None:
        """Returns what `_round` returns for the folded weight, without gradient; None if torch has to compute it."""
        grid = None if self.has_bare_grid else self.quantizer.largest_weight_grid
        if grid is None or not self._data.is_calibrated:
            return None
        return self.op.rounded(self._data.step_and_ends()[0], grid)

    def _round(self, weight: Tensor, bias: Tensor | None, _: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns the fake-quantized folded ``weight`` and ``bias``, differentiable."""
        with self._forward_of(weight):
            params = self.params(weight.detach(), bias)
            weight = self.quantizer.fake_quantize(weight, params)
        return weight, self._fake_quant_bias(bias, params)

    def _known(self, weight: Tensor, bias: Tensor | None) -> tuple[list[Tensor | None], Hashable | None]:
        """Returns the tensors and the settings on which the grid of the folded ``weight`` depends."""
        settings = None if self.has_bare_grid else self.quantizer.grid_settings
        data = self._data.params().scale if bias is not None and self._data.is_calibrated else None
        return [weight, bias, data], settings

    def _weight_before_batch_norm(self) -> tuple[Tensor, QuantParams]:
        """Returns (weight, grid): rounded on the grid of the folded weight, divided by the norm's factor (spec 6.7)."""
        weight, factor, inverse = self.op.unfolded()
        with self._forward_of(weight, factor):
            with torch.no_grad():
                bias = self.op.folded_bias()
            params = self._folded_params(weight, factor, bias)
            return self.quantizer.fake_quantize_unfolded(weight, factor, inverse, params), params

    def _forward_of(self, weight: Tensor, factor: Tensor | None = None) -> AbstractContextManager[None]:
        if self.quantizer.training and torch.is_grad_enabled():
            return self.quantizer.training_forward(weight, factor)
        return contextlib.nullcontext()

    def _folded_params(self, weight: Tensor, factor: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns the grid of ``weight * factor``; its scales keep the bias in int32."""
        if not self.has_bare_grid:
            return self._with_room_for_bias(self.quantizer.folded_params(weight, factor, bias), bias)
        params = with_smallest_scale(rescaled(self.quantizer.params(weight), factor), bias)
        return self._with_room_for_bias(params, bias)

    def _with_room_for_bias(self, params: QuantParams, bias: Tensor | None) -> QuantParams:
        if bias is None or not self._data.is_calibrated:
            return params
        scale = bias_scale_floor(bias.detach(), self._data.params().scale, params.scale)
        if scale is params.scale:
            return params
        _log.warning_of_layer(self._layer, "weight scale enlarged, so that the bias fits into int32.")
        return dataclasses.replace(params, scale=scale)

    def _fake_quant_bias(self, bias: Tensor | None, params: QuantParams) -> Tensor | None:
        """Returns the bias rounded to its int32 grid, as float; unchanged while the grid of the data is not known."""
        if bias is None or not self._data.is_calibrated:
            return bias
        scale = self._data.params().scale
        step = (scale * params.scale).detach()
        real = quantize_bias(bias.detach(), scale, params.scale).float() * step
        real = real.to(bias.dtype)
        return replace_value(real, bias) if bias.requires_grad else real


def _record(params: QuantParams) -> WeightRecord:
    return WeightRecord(
        scale=tuple(params.scale.reshape(-1).tolist()),
        num_bits=params.num_bits,
        codebook=() if params.codebook is None else tuple(int(value) for value in params.codebook.tolist()),
        centroids=() if params.centroids is None else tuple(params.centroids.tolist()),
        clip_max=params.clip_max,
    )
