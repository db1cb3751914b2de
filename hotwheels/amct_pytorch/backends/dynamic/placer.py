"""Puts the quantized layers of a plan into a model: modules keep their places, their forward is another."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from ...nn.call import LayerCall
from ...nn.norm_chain import BatchNormStage
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from ...plan.quant_plan import LayerPlan, QuantPlan
from ...quantizers.snq import SnqWeightFakeQuantize
from ...torch_private import BatchNorm
from ..layer_factory import LayerFactory
from .forwards import (
    FORWARD,
    FoldedForward,
    LayerForward,
    MakingForward,
    OriginalForward,
    OutOfPlaceCall,
    Replacement,
    replace_forward,
    works_in_place,
)
from .read.candidates import Candidate

LAYERS = "amct_layers"  # the sub-module which holds the QuantizedLayers


class LayerContainer(nn.Module):
    """Holds the QuantizedLayers, so that their state is part of the model's, and BatchNorms that are frozen.

    A model which runs its children one after the other (nn.Sequential) comes by here, too: it hands its input on.
    """

    def __init__(self, model: nn.Module) -> None:
        """Makes an empty one for ``model``, whose training flag it follows."""
        super().__init__()
        self.training = model.training
        # A tuple, so that they do not become sub-modules once more.
        self._norms = tuple(module for module in model.modules() if isinstance(module, BatchNorm))
        self._freezes_batch_norm = False

    def freeze_batch_norm(self, freeze: bool) -> None:
        """Keeps the BatchNorms in eval mode, or lets them follow the mode of the model again."""
        self._freezes_batch_norm = freeze
        self._set_batch_norms(self.training and not freeze)

    def train(self, mode: bool = True) -> LayerContainer:
        """Sets the training mode; as the last child of the model, so that frozen BatchNorms stay as they are."""
        super().train(mode)
        if self._freezes_batch_norm:
            self._set_batch_norms(False)
        return self

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Returns ``x``."""
        return x

    def add(self, layer: QuantizedLayer) -> None:
        """Registers ``layer`` under its name."""
        self._modules[key_of(layer.name)] = layer  # add_module refuses names of methods: "add", "half"

    def _set_batch_norms(self, mode: bool) -> None:
        for norm in self._norms:
            norm.train(mode)

    @property
    def by_name(self) -> dict[str, QuantizedLayer]:
        """The layers by name, in graph order."""
        return {layer.name: layer for layer in self.children() if isinstance(layer, QuantizedLayer)}


def key_of(layer: str) -> str:
    """Returns the name of ``layer`` without dots, which names of sub-modules must not have; others stay apart."""
    return layer.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def place_layers(
    model: nn.Module,
    plan: QuantPlan,
    candidates: Mapping[str, Candidate],
    owners: Mapping[str, Collection[str]],
    *,
    updates_batch_norms: bool = False,
) -> LayerContainer:
    """Replaces, in place, the forward of every planned module, and of the BatchNorms folded into them.

    With ``updates_batch_norms`` the codebook of non-uniform weights is that of the bare weight: it is found before the
    BatchNorm is updated (spec 6.7, last paragraph). ``owners`` are, by layer, the paths of the modules to which some
    calls of the layer's module belong (see `LayerForward`).
    """
    container, factory = LayerContainer(model), LayerFactory(plan)
    for one in plan.layers.values():
        layer = _make(one, candidates, factory)
        if one.batch_norm is not None:
            norm = candidates[one.batch_norm].module
            replace_forward(norm, FoldedForward(OriginalForward(norm)))
            assert layer.weighted is not None, "only layers with weights take up a BatchNorm"
            layer.weighted.has_bare_grid = updates_batch_norms and isinstance(layer.weight, SnqWeightFakeQuantize)
        module = candidates[one.name].module
        replace_forward(module, LayerForward(layer, OriginalForward(module), owners.get(one.name, ())))
        container.add(layer.train(model.training))
    for path in sorted({path for paths in owners.values() for path in paths}):
        _note_results(path, candidates[path].module)
    model.add_module(LAYERS, container)
    return container


@contextlib.contextmanager
def without_layers(model: nn.Module) -> Iterator[None]:
    """Inside it the quantizers of ``model`` are not part of it."""
    layers = model._modules.pop(LAYERS)
    try:
        yield
    finally:
        model._modules[LAYERS] = layers


def _note_results(path: str, module: nn.Module) -> None:
    forward = module.__dict__.get(FORWARD)
    original = forward.original if isinstance(forward, Replacement) else OriginalForward(module)
    present: Any = forward if isinstance(forward, Replacement) else original
    replace_forward(module, MakingForward(path, original, present))


def _make(plan: LayerPlan, candidates: Mapping[str, Candidate], factory: LayerFactory) -> QuantizedLayer:
    module = candidates[plan.name].module
    forward = OutOfPlaceCall(module) if works_in_place(module) else OriginalForward(module)
    call = LayerCall(forward, tuple(one.edge for one in plan.inputs))
    if plan.weight is None:
        return factory.make(plan, call, None)
    norm = None if plan.batch_norm is None else candidates[plan.batch_norm].module
    behind = () if norm is None else (BatchNormStage(norm, OriginalForward(norm)),)
    return factory.make(plan, call, WeightedOp(module, plan.op.role, behind, forward=forward))
