"""What training a quantized model needs beside its modes: BatchNorm statistics that stay (spec 6.7)."""

from __future__ import annotations

from torch import nn

from ..backends.layer_container import LayerContainer, containers_inside, freeze_batch_norms
from ..workflows.arguments import check_model, check_type
from ..workflows.quantized import instances_inside


def freeze_batch_norm(model: nn.Module, freeze: bool = True) -> None:
    """Makes every BatchNorm of the quantized models inside ``model`` use and keep its running statistics.

    Frozen ones stay so through ``model.train()`` until ``freeze=False``; their weights and biases are still trained.
    A BatchNorm which is folded is trained as it is deployed from then on: as part of the convolution. eps and momentum
    are never touched. The usual place is after the first epochs, when the statistics fit the quantized network. Copies
    and checkpoints are frozen as well; loading one that is not frozen leaves the model as it is.

    Args:
      model: Quantized model, or a module that contains one, such as DistributedDataParallel.
      freeze: False lets the statistics follow the batches again, in training mode.

    Raises:
      ConfigError: There is no quantized model inside ``model``.
    """
    function = "freeze_batch_norm"
    check_model(function, model)
    check_type(function, "freeze", freeze, bool, "a bool")
    instances_inside(function, model, LayerContainer)
    for quantized, layers in containers_inside(model):
        freeze_batch_norms(quantized, layers, freeze)
