"""Updating BatchNorms to quantized weights, and what becomes of the factors when they are folded (SPEC 3, 6.7, 9.8)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core.affine import bias_scale_floor, canonical_scale
from ...core.batch_norm import channel_factor, fold
from ...nn.quantized_layer import QuantizedLayer
from ...record import LayerRecord, Record, WeightRecord
from .float_model import Fold, refold

if TYPE_CHECKING:
    from .session import CalibrationSession


@dataclasses.dataclass(frozen=True, kw_only=True)
class BnUpdate:
    """How running statistics are updated.

    Attributes:
      momentum: Share of a batch's statistics in the running ones, (0, 1).
    """

    momentum: float


def set_batch_norms(model: nn.Module, is_training: bool, update: BnUpdate | None) -> None:
    """Switches the BatchNorms of ``model`` between batch and running statistics.

    With an ``update`` they also take its momentum, and their affine parameters learn while they train.
    """
    for norm in model.modules():
        if not isinstance(norm, _BatchNorm):
            continue
        norm.train(is_training)
        if update is not None:
            norm.momentum = update.momentum if is_training else norm.momentum
            for parameter in norm.parameters(recurse=False):
                parameter.requires_grad_(is_training)


def fold_present_state(model: ir.Model, record: Record, session: CalibrationSession) -> Record:
    """Folds the BatchNorms as they are now into the weights of ``model``, in place; returns the record that fits them.

    ``model`` and ``record`` are what quantize_model and the calibration wrote.
    """
    layers = session.layers
    separate = [fold for fold in session.plan.folds if fold.conv in session.has_separate_norm]
    refold(model, session.plan.folds, {one.conv: _folded_grid_points(layers[one.conv], one) for one in separate})
    factors = {one.conv: one for one in separate}
    return Record(
        {name: _updated(name, one, layers.get(name), factors.get(name)) for name, one in record.layers.items()}
    )


def _updated(name: str, record: LayerRecord, layer: QuantizedLayer | None, separate: Fold | None) -> LayerRecord:
    if record.weight is None or layer is None:
        return record
    if separate is None:
        return dataclasses.replace(record, weight=layer.weight_record())
    data_scale = next((torch.tensor(one.scale) for one in record.activations if one.index == 0), None)
    return dataclasses.replace(record, weight=_rescaled(record.weight, separate, data_scale))


@torch.no_grad()
def _rescaled(weight: WeightRecord, separate: Fold, data_scale: Tensor | None) -> WeightRecord:
    """The grid of the bare weight as one of the folded weight: ``scale_w[c] * |factor_c|``."""
    norm: Any = separate.op.batch_norm
    factor = channel_factor(norm.running_var, norm.weight, norm.eps).cpu()
    # A channel without a factor is a constant, its weights are 0 on any grid.
    size = torch.where(factor == 0, torch.ones_like(factor), factor.abs())
    scale = canonical_scale(torch.tensor(weight.scale) * size)
    if data_scale is not None:
        scale = bias_scale_floor(separate.op.folded()[1].cpu(), data_scale, scale)
    return dataclasses.replace(weight, scale=tuple(scale.tolist()))


@torch.no_grad()
def _folded_grid_points(layer: QuantizedLayer, separate: Fold) -> Tensor:
    """The quantized bare weight with the BatchNorm folded in, [C_out, ...].

    Not the float weight: then what the export assigns is exactly what the BatchNorm was updated to, also beside ties;
    in a channel with negative factor it is what lies nearest to the negated value.
    """
    assert layer.weighted is not None and layer.weight is not None
    norm: Any = separate.op.batch_norm
    weight, bias = layer.weighted.folded()
    points = layer.weight.fake_quantize(weight, layer.current_weight_params(weight, bias))
    return fold(points, None, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)[0]
