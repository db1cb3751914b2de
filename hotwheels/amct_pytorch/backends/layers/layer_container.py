"""LayerContainer: holds the quantized layers of one model, and whether its BatchNorms keep their statistics."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...nn.quantized_layer import QuantizedLayer
from ...torch_private import BatchNorm

LAYERS = "amct_layers"  # its name in the quantized model


@dataclasses.dataclass
class Standing:
    """A module of the quantized model that a layer uses in its computation.

    Attributes:
      module: The module.
      cls: Its class when the model was quantized.
      layer: Name of the layer.
      has_forward: Whether the module had a forward of its own, beside that of its class, when the model was quantized.
    """

    module: nn.Module
    cls: type[nn.Module]
    layer: str
    has_forward: bool = False


class LayerContainer(nn.Module):
    """The child ``amct_layers`` of a quantized model.

    Its children have the names of layers, such as ``add``, so it has no public attribute of its own. It returns its
    input, because nn.Sequential calls all children of a model.
    """

    # float32 [], above 0 if the BatchNorms of the model keep their statistics in training mode.
    _freezes_batch_norm: Tensor

    def __init__(self, training: bool, model: nn.Module | None = None) -> None:
        """Makes it empty; ``model``: the quantized model, if its ``train`` does not keep BatchNorms frozen."""
        super().__init__()
        self.training = training
        self._model = () if model is None else (model,)  # a tuple, so that it does not become a child
        self.register_buffer("_freezes_batch_norm", torch.zeros(()))
        self._is_frozen = False  # whether the BatchNorms are frozen now
        self._standing: dict[str, Standing] = {}  # by path; see `standing_modules`
        self._has_warned = False  # whether the WARNING of calibration in training mode was logged
        self._has_warned_of_evaluation = False  # whether that of evaluation in training mode was logged

    def train(self, mode: bool = True) -> LayerContainer:
        """Sets the training mode and freezes BatchNorms again; this works because it is the model's last child."""
        super().train(mode)
        for model in self._model:
            follow_flag(model, self)
        return self

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Returns ``x``."""
        return x

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads the flag; frozen BatchNorms stay frozen, so freezing and loading commute. Old states have no flag."""
        key = f"{prefix}_freezes_batch_norm"
        if key not in state_dict or self._freezes_batch_norm.item() > 0:
            state_dict[key] = self._freezes_batch_norm.clone()
        super()._load_from_state_dict(state_dict, prefix, *args)


def add_layer(layers: LayerContainer, key: str, layer: QuantizedLayer) -> None:
    """Registers ``layer``; ``key`` is its name without dots."""
    layers._modules[key] = layer  # add_module refuses names of methods: "add", "half"


def layers_by_name(layers: LayerContainer) -> dict[str, QuantizedLayer]:
    """Returns the layers by name, in graph order."""
    return {layer.name: layer for layer in layers.children() if isinstance(layer, QuantizedLayer)}


def layers_of(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Returns the layers of a quantized model by name, in graph order."""
    layers = model._modules[LAYERS]
    assert isinstance(layers, LayerContainer)
    return layers_by_name(layers)


@contextlib.contextmanager
def keeping_inputs(layers: Collection[QuantizedLayer]) -> Iterator[None]:
    """Returns a context in which ``layers`` do not overwrite their inputs, so that these stay readable."""
    for layer in layers:
        layer.keeps_inputs = True
    try:
        yield
    finally:
        for layer in layers:
            layer.keeps_inputs = False


def containers_inside(model: nn.Module) -> list[tuple[nn.Module, LayerContainer]]:
    """Returns the quantized models in ``model`` (itself included), each with its layers."""
    pairs = ((module, module._modules.get(LAYERS)) for module in model.modules())
    return [(module, layers) for module, layers in pairs if isinstance(layers, LayerContainer)]


def freeze_batch_norms(model: nn.Module, layers: LayerContainer, freeze: bool) -> None:
    """Keeps the BatchNorms of ``model`` in eval mode, or lets them follow the mode of the model again."""
    layers._freezes_batch_norm.fill_(float(freeze))
    follow_flag(model, layers)


def follow_flag(model: nn.Module, layers: LayerContainer) -> None:
    """Freezes or unfreezes the BatchNorms of ``model`` as the buffer says, which may have been loaded or received."""
    is_frozen = layers._freezes_batch_norm.item() > 0
    if is_frozen or layers._is_frozen:
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.training = layers.training and not is_frozen
        layers._is_frozen = is_frozen
