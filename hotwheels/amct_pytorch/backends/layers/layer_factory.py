"""LayerFactory: makes the QuantizedLayers of one plan, in which siblings share a quantizer (spec 8.6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...nn.call import LayerCall
from ...nn.layer_weight import LayerWeight
from ...nn.quantized_layer import QuantizedLayer
from ...nn.shared_input import SharedInput, SharedInputs
from ...nn.weighted_op import WeightedOp
from ...plan.quant_plan import InputPlan, LayerPlan, QuantPlan
from ...quantizers.base import ActivationQuantizer, WeightQuantizer
from ...quantizers.registry import build_activation, build_weight

NOT_LISTED = "the capacity file does not list its type as quantizable"


class LayerFactory:
    """Makes layers, and keeps their quantizers by group, so that inputs of a group share a quantizer."""

    def __init__(self, plan: QuantPlan, sharing: Mapping[str, SharedInput] | None = None) -> None:
        """Starts with no layer of ``plan``; ``sharing`` is by group, by default objects that overwrite no tensor."""
        self._activation: dict[str, ActivationQuantizer] = {}
        self._weight: dict[str, WeightQuantizer] = {}
        self._sharing = sharing or _sharing(plan)

    def make(self, plan: LayerPlan, call: LayerCall, weighted: WeightedOp | None) -> QuantizedLayer:
        """Returns the layer, in float mode; ``weighted`` is the operation of a layer with weights."""
        activation = [self._activation_quantizer(plan, one) for one in plan.inputs]
        weight = None
        if weighted is not None:
            weight = LayerWeight(plan.name, weighted, self._weight_quantizer(plan, weighted), activation[0])
        sharing = [self._sharing[one.group] for one in plan.inputs]
        return QuantizedLayer(plan.name, plan.op, call, activation, sharing, weight)

    def _activation_quantizer(self, plan: LayerPlan, one: InputPlan) -> ActivationQuantizer:
        if one.group not in self._activation:
            self._activation[one.group] = build_activation(one.quantizer, plan.name)
        return self._activation[one.group]

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
    return {
        group: (SharedInput if len(counts) == 1 else SharedInputs)(max(counts.values()))
        for group, counts in readers.items()
    }
