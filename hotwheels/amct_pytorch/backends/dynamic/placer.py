"""Puts the quantized layers of a plan into a model: modules keep their places, their forward is another (DESIGN 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...nn.call import LayerCall
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from ...plan.quant_plan import LayerPlan, QuantPlan
from ...quantizers.snq import SnqWeightFakeQuantize
from ..layer_factory import LayerFactory
from .candidates import Candidate
from .forwards import FoldedForward, LayerForward, OriginalForward, replace_forward

LAYERS = "amct_layers"  # the sub-module which holds the QuantizedLayers


class LayerContainer(nn.Module):
    """Holds the QuantizedLayers, so that their state is part of the model's.

    A model which runs its children one after the other (nn.Sequential) comes by here, too: it hands its input on.
    """

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Returns ``x``."""
        return x

    def add(self, layer: QuantizedLayer) -> None:
        """Registers ``layer`` under its name."""
        self._modules[key_of(layer.name)] = layer  # add_module refuses names of methods: "add", "half"

    @property
    def by_name(self) -> dict[str, QuantizedLayer]:
        """The layers by name, in graph order."""
        return {layer.name: layer for layer in self.children() if isinstance(layer, QuantizedLayer)}


def key_of(layer: str) -> str:
    """Returns the name of ``layer`` without dots, which names of sub-modules must not have; others stay apart."""
    return layer.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def place_layers(
    model: nn.Module, plan: QuantPlan, candidates: Mapping[str, Candidate], *, updates_batch_norms: bool = False
) -> LayerContainer:
    """Replaces, in place, the forward of every planned module, and of the BatchNorms folded into them.

    With ``updates_batch_norms`` the codebook of non-uniform weights is that of the bare weight: it is found before the
    BatchNorm is updated (SPEC 6.7, last paragraph).
    """
    container, factory = LayerContainer(), LayerFactory(plan)
    for one in plan.layers.values():
        layer = _make(one, candidates, factory)
        if one.batch_norm is not None:
            replace_forward(candidates[one.batch_norm].module, FoldedForward())
            layer.has_bare_grid = updates_batch_norms and isinstance(layer.weight, SnqWeightFakeQuantize)
        replace_forward(candidates[one.name].module, LayerForward(layer))
        container.add(layer.train(model.training))
    model.add_module(LAYERS, container)
    return container


def _make(plan: LayerPlan, candidates: Mapping[str, Candidate], factory: LayerFactory) -> QuantizedLayer:
    module = candidates[plan.name].module
    forward = OriginalForward(module)
    call = LayerCall(forward, tuple(one.edge for one in plan.inputs))
    if plan.weight is None:
        return factory.make(plan, call, None)
    norm = None if plan.batch_norm is None else candidates[plan.batch_norm].module
    normalize = None if norm is None else OriginalForward(norm)
    return factory.make(plan, call, WeightedOp(module, plan.op.role, norm, forward, normalize))
