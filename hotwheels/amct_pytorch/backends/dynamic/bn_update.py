"""Updating BatchNorms to quantized weights, and what becomes of the factors when they are folded (SPEC 3, 6.7, 9.8)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import onnx_ir as ir
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...nn.quantized_layer import QuantizedLayer
from ...record import LayerRecord, Record
from .float_model import refold

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
    refold(model, session.plan.folds)
    return Record({name: _updated(one, layers.get(name)) for name, one in record.layers.items()})


def _updated(record: LayerRecord, layer: QuantizedLayer | None) -> LayerRecord:
    if record.weight is None or layer is None:
        return record
    return dataclasses.replace(record, weight=layer.folded_weight_record())
