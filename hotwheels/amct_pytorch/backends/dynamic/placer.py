"""Puts the quantized layers of a plan into a model: modules stay in place, their forwards are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ...nn.call import LayerCall
from ...nn.norm_chain import BatchNormStage, PassStage, Stage
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from ...plan.quant_plan import LayerPlan, QuantPlan
from ...quantizers.snq import SnqWeightFakeQuantize
from ..layers.layer_container import LAYERS, LayerContainer, add_layer
from ..layers.layer_factory import LayerFactory
from ..user_model.standing_modules import note_standing
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


def key_of(layer: str) -> str:
    """Returns a unique name for ``layer`` without dots, which names of submodules must not have."""
    return layer.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def place_layers(
    model: nn.Module,
    plan: QuantPlan,
    candidates: Mapping[str, Candidate],
    owners: Mapping[str, Collection[str]],
    between: Mapping[nn.Module, Collection[nn.Module]],
    *,
    updates_batch_norms: bool = False,
) -> LayerContainer:
    """Replaces, in place, the forward of every planned module, and of the BatchNorms folded into them.

    With ``updates_batch_norms`` the codebook of non-uniform weights is that of the bare weight, since the codebook is
    found before the BatchNorm is updated (spec 6.7, last paragraph). ``owners`` are, by layer, the paths of the modules
    to which some calls of the layer's module belong (see `LayerForward`). ``between`` are the dropouts in front of each
    BatchNorm, which become part of the layer too.
    """
    container, factory = LayerContainer(model.training, model), LayerFactory(plan)
    for one in plan.layers.values():
        norm = None if one.batch_norm is None else candidates[one.batch_norm].module
        behind = [] if norm is None else [*between.get(norm, ()), norm]
        layer = _make(one, candidates, factory, behind)
        for member in behind:
            replace_forward(member, FoldedForward(OriginalForward(member)))
        if norm is not None:
            assert layer.weighted is not None, "a BatchNorm is folded into layers with weights only"
            layer.weighted.has_bare_grid = updates_batch_norms and isinstance(layer.weight, SnqWeightFakeQuantize)
        module = candidates[one.name].module
        replace_forward(module, LayerForward(layer, OriginalForward(module), owners.get(one.name, ())))
        add_layer(container, key_of(layer.name), layer.train(model.training))
    for path in sorted({path for paths in owners.values() for path in paths}):
        _note_results(path, candidates[path].module)
    model.add_module(LAYERS, container)
    names = [
        (name, one.name) for one in plan.layers.values() for name in (one.name, one.batch_norm) if name is not None
    ]
    note_standing(model, container, {candidates[name].path: layer for name, layer in names})
    return container


@contextlib.contextmanager
def without_layers(model: nn.Module) -> Iterator[None]:
    """Returns a context in which the quantizers are not registered in ``model``."""
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


def _make(
    plan: LayerPlan, candidates: Mapping[str, Candidate], factory: LayerFactory, behind: Sequence[nn.Module]
) -> QuantizedLayer:
    module = candidates[plan.name].module
    forward = OutOfPlaceCall(module) if works_in_place(module) else OriginalForward(module)
    call = LayerCall(forward, tuple(one.edge for one in plan.inputs))
    if plan.weight is None:
        return factory.make(plan, call, None)
    stages: list[Stage] = [PassStage(dropout, OriginalForward(dropout)) for dropout in behind[:-1]]
    stages += [BatchNormStage(norm, OriginalForward(norm)) for norm in behind[-1:]]
    return factory.make(plan, call, WeightedOp(module, plan.op.role, stages, forward=forward))
