"""The model inside a quantized model of the dynamic path: the user's modules with their present weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.dynamic.backend import DynamicBackend
from ..backends.dynamic.forwards import original_forwards
from ..backends.dynamic.placer import without_layers
from ..backends.dynamic.session.session_forward import takes_other_floats
from ..backends.layers.layer_container import LayerContainer
from ..backends.user_model.standing_modules import follow_modules, with_noted_classes
from ..torch_private import pytree


def backend_of_quantized(
    quantized: nn.Module, container: LayerContainer, inputs: tuple[Any, ...], setting: Mapping[str, Any]
) -> DynamicBackend:
    """Returns a backend that has exported the float model with the present weights of ``quantized``.

    ``inputs`` are an example, on any device; ``setting`` has the arguments of the export.
    """
    follow_modules(quantized, container)
    is_cast, inputs = takes_other_floats(quantized), _on_device_of(quantized, inputs)
    with (
        original_forwards(quantized),
        with_noted_classes(quantized, container),
        without_layers(quantized),
        torch.no_grad(),
    ):
        return DynamicBackend(quantized, inputs, export_setting=setting, takes_other_floats=is_cast)


def _on_device_of(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first = next(model.parameters(), None)
    if first is None:
        return inputs
    moved: tuple[Any, ...] = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(first.device), inputs)
    return moved
