"""LayerFactory: makes the QuantizedLayers of one plan, in which inputs of equal grid share a quantizer (spec 8.6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...nn.call import LayerCall
from ...nn.layer_weight import LayerWeight
from ...nn.quantized_layer import QuantizedLayer
from ...nn.shared_input import FollowingInput, SharedInput, SharedInputs
from ...nn.weighted_op import WeightedOp
from ...plan.quant_plan import InputPlan, LayerPlan, QuantPlan
from ...quantizers.base import ActivationQuantizer, WeightQuantizer
from ...quantizers.registry import build_activation, build_weight

NOT_LISTED = "the capacity file does not list its type as quantizable"


class LayerFactory:
    """Makes layers, and keeps their quantizers by grid, so that inputs of equal grid share a quantizer."""

    def __init__(self, plan: QuantPlan, sharing: Mapping[str, SharedInput] | None = None) -> None:
        """Starts with no layer of ``plan``; ``sharing`` is by group, by default objects that overwrite no tensor."""
        self._activation: dict[str, ActivationQuantizer] = {}
        self._owners: dict[str, tuple[str, InputPlan]] = {}
        for layer in plan.layers.values():
            for one in layer.inputs:
                if one.is_observed:
                    self._owners.setdefault(one.grid, (layer.name, one))
        self._weight: dict[str, WeightQuantizer] = {}
        self._sharing = sharing or _sharing(plan)

    def make(self, plan: LayerPlan, call: LayerCall, weighted: WeightedOp | None) -> QuantizedLayer:
        """Returns the layer, in float mode; ``weighted`` is the operation of a layer with weights."""
        activation = [self._activation_quantizer(one.grid) for one in plan.inputs]
        weight = None
        if weighted is not None:
            weight = LayerWeight(plan.name, weighted, self._weight_quantizer(plan, weighted), activation[0])
        sharing = [self._sharing[one.group] for one in plan.inputs]
        return QuantizedLayer(plan.name, plan.op, call, activation, sharing, weight)

    def _activation_quantizer(self, grid: str) -> ActivationQuantizer:
        if grid not in self._activation:
            layer, one = self._owners[grid]
            self._activation[grid] = build_activation(one.quantizer, layer)
        return self._activation[grid]

    def _weight_quantizer(self, plan: LayerPlan, weighted: WeightedOp) -> WeightQuantizer:
        assert plan.weight is not None
        if plan.weight_group not in self._weight:
            self._weight[plan.weight_group] = build_weight(
                plan.weight, plan.name, weighted.out_channels, plan.op.allows_channel_wise
            )
        return self._weight[plan.weight_group]


def _sharing(plan: QuantPlan) -> dict[str, SharedInput]:
    """Returns one SharedInput for each group, none of which overwrites tensors."""
    readers: dict[str, Counter[str]] = {}
    for one in (one for layer in plan.layers.values() for one in layer.inputs):
        readers.setdefault(one.group, Counter()).update(one.tensors)

    def kind(group: str) -> type[SharedInput]:
        if group in plan.following:
            return FollowingInput
        return SharedInput if len(readers[group]) == 1 else SharedInputs

    return {group: kind(group)(max(counts.values())) for group, counts in readers.items()}
