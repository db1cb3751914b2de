"""Updates BatchNorms to quantized weights, and the factors of weights into which they are folded (spec 3, 6.7, 9.8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import onnx_ir as ir
from torch import nn

from ....log import get_logger
from ....nn.quantized_layer import QuantizedLayer
from ....record import LayerRecord, Record
from ....torch_private import BatchNorm
from ..read.float_model import Fold, refold, write_normalization

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BnUpdate:
    """How running statistics are updated.

    Attributes:
      momentum: Share of a batch's statistics in the running statistics, (0, 1).
      standing: The BatchNorms that are not folded into a convolution, by the name of their nodes.
    """

    momentum: float
    standing: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)


def switch_batch_norms(model: nn.Module, is_training: bool) -> None:
    """Switches the BatchNorms of ``model`` between batch and running statistics."""
    for norm in _batch_norms(model).values():
        norm.train(is_training)


def update_batch_norms(model: nn.Module, is_training: bool, update: BnUpdate, folds: Collection[Fold]) -> None:
    """Switches the BatchNorms of ``model`` that a save writes to the files; other BatchNorms keep their statistics.

    In training mode they have the momentum of the update, and their affine parameters require gradients.
    """
    known = {*(norm for fold in folds for norm in fold.batch_norms), *update.standing.values()}
    norms = _batch_norms(model)
    for norm in norms.values():
        if norm in known:
            norm.train(is_training)
            norm.momentum = update.momentum if is_training else norm.momentum
            for parameter in norm.parameters(recurse=False):
                parameter.requires_grad_(is_training)
    if is_training:
        _report_left([name for name, norm in norms.items() if norm not in known])


def _batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}


def _report_left(names: Collection[str]) -> None:
    if names:
        _log.warning(
            "BatchNorms that are not called in the forward, or have no node of their own, keep their statistics: %s.",
            ", ".join(names),
        )


def write_present_norms(model: ir.Model, update: BnUpdate | None, folds: Collection[Fold]) -> None:
    """Writes the present values of the BatchNorms into ``model``, in place; BatchNorms of ``folds`` into weights."""
    refold(model, folds)
    if update is not None:
        write_normalization(model, update.standing)


def with_present_weights(record: Record, layers: Mapping[str, QuantizedLayer]) -> Record:
    """Returns ``record`` with the grids of the weights that have the present BatchNorms folded into them."""
    return Record({name: _updated(one, layers.get(name)) for name, one in record.layers.items()})


def _updated(record: LayerRecord, layer: QuantizedLayer | None) -> LayerRecord:
    if record.weight is None or layer is None or layer.weighted is None:
        return record
    return dataclasses.replace(record, weight=layer.weighted.folded_record())
