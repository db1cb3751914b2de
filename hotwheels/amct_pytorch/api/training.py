"""freeze_batch_norm: keeps BatchNorm statistics constant in the training of a quantized model (spec 6.7)."""

from __future__ import annotations

from torch import nn

from ..backends.layers.layer_container import LayerContainer, containers_inside, freeze_batch_norms
from ..workflows.arguments import check_model, check_type
from ..workflows.quantized import instances_inside


def freeze_batch_norm(model: nn.Module, freeze: bool = True) -> None:
    """Makes every BatchNorm of the quantized models inside ``model`` use and keep its running statistics.

    A frozen BatchNorm stays frozen after ``model.train()``, until ``freeze=False``; its weight and bias are still
    trained. A folded BatchNorm that is frozen is trained as it is deployed: as part of the convolution. eps and
    momentum are not changed. The usual time is after the first epochs, when the statistics fit the quantized network.
    Copies and checkpoints of a frozen model are frozen too; loading a checkpoint that is not frozen does not unfreeze.

    Args:
      model: Quantized model, or a module that contains one, such as DistributedDataParallel.
      freeze: False makes training forwards update the statistics again.

    Raises:
      ConfigError: There is no quantized model inside ``model``.
    """
    function = "freeze_batch_norm"
    check_model(function, model)
    check_type(function, "freeze", freeze, bool, "a bool")
    instances_inside(function, model, LayerContainer)
    for quantized, layers in containers_inside(model):
        freeze_batch_norms(quantized, layers, freeze)
