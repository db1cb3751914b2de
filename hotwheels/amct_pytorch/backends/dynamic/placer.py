"""Puts the quantized layers of a plan into a model: modules stay in place, their forwards are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from ...graph import FoldedNodes
from ...nn.call import LayerCall
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
from .inner_affine import InnerAffine
from .padded_layer import PaddedForward
from .read.candidates import Candidate
from .read.folding import dropout_stages, stages


def key_of(layer: str) -> str:
    """Returns a unique name for ``layer`` without dots, which names of submodules must not have."""
    return layer.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def place_layers(
    model: nn.Module,
    plan: QuantPlan,
    candidates: Mapping[str, Candidate],
    folded: Mapping[str, FoldedNodes],
    owners: Mapping[str, Collection[str]],
    between: Mapping[nn.Module, Collection[nn.Module]],
    *,
    updates_batch_norms: bool = False,
) -> LayerContainer:
    """Replaces, in place, the forward of every planned module, and of the modules folded into them.

    With ``updates_batch_norms`` the codebook of non-uniform weights is that of the bare weight, since the codebook is
    found before the BatchNorm is updated (spec 6.7, last paragraph). ``folded`` are, by layer, the paths of the modules
    that are folded, and ``owners`` those of the modules to which some calls of the layer's module belong (see
    `LayerForward`). ``between`` are the dropouts in front of each
    member, or of a layer with members in front, which become part of the layer too.
    """
    container, factory = LayerContainer(model.training, model), LayerFactory(plan)
    members = {one: OriginalForward(one) for one in _members(plan, candidates, folded, between)}
    for one in plan.layers.values():
        layer = _make(one, candidates, folded[one.name], between, factory)
        if layer.weighted is not None and folded[one.name].behind:
            layer.weighted.has_bare_grid = updates_batch_norms and isinstance(layer.weight, SnqWeightFakeQuantize)
        module = candidates[one.name].module
        forward = LayerForward(layer, OriginalForward(module), owners.get(one.name, ()))
        padded = candidates[one.name].padded
        replace_forward(module, forward if padded is None else PaddedForward(forward, padded.margins))  # type: ignore[arg-type]
        add_layer(container, key_of(layer.name), layer.train(model.training))
    for member, original in members.items():
        replace_forward(member, FoldedForward(original))
    for path in sorted({path for paths in owners.values() for path in paths}):
        _note_results(path, candidates[path].module)
    model.add_module(LAYERS, container)
    standing = [(path, name) for name, one in folded.items() for path in (name, *one.front, *one.behind)]
    paths = {path: name for path, name in standing if not isinstance(candidates[path].module, InnerAffine)}
    note_standing(model, container, paths)
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
    plan: LayerPlan,
    candidates: Mapping[str, Candidate],
    folded: FoldedNodes,
    between: Mapping[nn.Module, Collection[nn.Module]],
    factory: LayerFactory,
) -> QuantizedLayer:
    module, padded = candidates[plan.name].module, candidates[plan.name].padded
    forward: Any = padded or (OutOfPlaceCall(module) if works_in_place(module) else OriginalForward(module))
    call = LayerCall(forward, tuple(one.edge for one in plan.inputs))
    if plan.weight is None:
        return factory.make(plan, call, None)
    front, behind = ([candidates[path] for path in chain] for chain in (folded.front, folded.behind))
    computing = candidates[plan.name].computing
    bare = WeightedOp(computing, plan.op.role)
    ahead = stages(front, bare.in_channels, between)
    if front:
        ahead += dropout_stages(between.get(module, ()))
    weighted = WeightedOp(computing, plan.op.role, stages(behind, bare.out_channels, between), ahead, forward=forward)
    return factory.make(plan, call, weighted)


def _members(
    plan: QuantPlan,
    candidates: Mapping[str, Candidate],
    folded: Mapping[str, FoldedNodes],
    between: Mapping[nn.Module, Collection[nn.Module]],
) -> Iterator[nn.Module]:
    """Yields the modules that are part of a layer with a weight: those folded into it, and dropouts between them."""
    for name in plan.layers:
        members = [candidates[path].module for path in (*folded[name].front, *folded[name].behind)]
        for member in [*members, *([candidates[name].module] if folded[name].front else [])]:
            yield from between.get(member, ())
        yield from members
