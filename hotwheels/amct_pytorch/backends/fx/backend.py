"""FxBackend: traces a copy of the model and puts quantized layers into its graph."""

from __future__ import annotations

import functools
from typing import Any

from torch import fx, nn

from ...config.layers.quant_config import QuantConfig
from ...errors import UnsupportedModelError
from ...graph import OpGraph
from ...log import get_logger, one_line_per_cause
from ...nn.call import LayerCall
from ...nn.quantized_layer import QuantizedLayer
from ...ops.registry import Registry
from ...plan.configured_graph import ConfiguredGraph
from ...plan.quant_plan import LayerPlan, QuantPlan
from ...plan.sibling_advice import sibling_advice
from ..batches.example import Example
from ..layers.folding import Folds, weighted_op
from ..layers.layer_container import LAYERS, LayerContainer, add_layer
from ..layers.layer_factory import LayerFactory
from ..user_model.float_model import copied, in_float32, needs_float32, unwrapped
from ..user_model.standing_modules import note_standing
from .float_twin import FloatTwin
from .quant_graph_module import Origin, QuantGraphModule, adopt_state
from .read.called import callable_of
from .read.folding import find_folds
from .read.graph import build_graph
from .read.model_advice import model_advice
from .read.no_op_nodes import handed_on_nodes
from .read.sharing import share_inputs
from .rewrite.attention import decompose_attention, trace_attention
from .rewrite.flat_convolutions import flatten_convolutions
from .rewrite.functionalize import functionalize
from .rewrite.hooked_weights import place_hooked_weights
from .rewrite.norm_calls import place_norm_calls
from .rewrite.opaque_calls import look_into_opaque_calls
from .rewrite.pads import place_pads
from .rewrite.products import spell_products
from .rewrite.weighted_calls import place_weighted_calls
from .rewrite.written_weights import place_written_weights
from .trace.capture import trace
from .trace.compare import check_graph
from .trace.tracer import callee_in_force

_log = get_logger(__name__)


class FxBackend:
    """One model as a traced static graph. The caller's model is copied first and never changed."""

    def __init__(
        self,
        model: nn.Module,
        registry: Registry,
        opaque: frozenset[type] = frozenset(),
        copies_tensors: bool = True,
        inputs: tuple[Any, ...] | None = None,
    ) -> None:
        """Traces a copy of ``model``.

        Args:
          model: The float model; it is not changed.
          registry: The known operations.
          opaque: Further module classes that the trace treats as one node.
          copies_tensors: If False, the copy shares its parameters with ``model``; enough to read the graph.
          inputs: An example call of the model for the trace; None if there is none.

        Raises:
          UnsupportedModelError: The model cannot be copied or traced, or is quantized.
        """
        if any(isinstance(module, QuantizedLayer) for module in model.modules()):
            raise UnsupportedModelError("The model is quantized already. Pass the float model.")
        model = unwrapped(model)
        self._class_name = type(model).__name__
        self._takes_other_floats = needs_float32(model)
        model = copied(model, copies_tensors)
        with one_line_per_cause():  # functions of the model are traced by themselves, and read the same lines
            self._traced = trace_attention(model) or trace(
                model,
                registry.leaf_packages,
                lambda cls: cls in opaque or registry.is_leaf_type(cls),
                in_float32(inputs) if self._takes_other_floats else inputs,
            )
            if inputs is not None:
                look_into_opaque_calls(self._traced, registry)
        if inputs is not None and copies_tensors:
            given = in_float32(inputs) if self._takes_other_floats else inputs
            check_graph(model, self._traced, Example.of(given, callee_in_force(model) or model.forward))
        self._twin = FloatTwin(model)
        decompose_attention(self._traced)
        self._in_place = functionalize(self._traced)
        place_written_weights(self._traced, keeps_states=copies_tensors)
        spell_products(self._traced)
        flatten_convolutions(self._traced)
        place_weighted_calls(self._traced)
        place_hooked_weights(self._traced)
        place_norm_calls(self._traced)
        place_pads(self._traced, registry)
        self._traced.graph.lint()  # here, once for all passes
        self._traced.recompile()
        self._registry = registry

    def graph(self) -> OpGraph:
        """Returns the operations of the model under their FX node names."""
        return build_graph(self._traced, self._registry, self._folds)

    @functools.cached_property
    def _folds(self) -> Folds[fx.Node]:
        return find_folds(self._traced, self._registry)

    @property
    def traced(self) -> fx.GraphModule:
        """The float graph, for pictures."""
        return self._traced

    def origin(self, graph: OpGraph, config: QuantConfig) -> Origin:
        """Returns the model's ``graph``, its settings and the advice that needs no data. Call it before `place`."""
        model = ConfiguredGraph(graph, config, handed_on=handed_on_nodes(self._traced))
        advice = (*model_advice(self._traced, model, self._registry), *sibling_advice(model))
        return Origin(model, advice, config.refine, class_name=self._class_name)

    def place(self, plan: QuantPlan, origin: Origin | None = None) -> QuantGraphModule:
        """Returns the quantized model, which keeps its ``origin``. Changes the traced copy, so call it last."""
        for skip in self._in_place:
            _log.warning(
                "'%s' stays an in-place operation, since %s. Other tensors with the same memory do not show the change"
                " in real_quant, in exported models and behind quantized layers: write it out of place.",
                skip.name,
                skip.reason,
            )
        _Placer(self._traced, plan, self._registry, self._folds).place_all()
        quantized = QuantGraphModule(self._traced, self._traced.graph)
        adopt_state(quantized, self._traced)
        quantized.origin = origin
        quantized.twin = self._twin
        quantized.takes_other_floats = self._takes_other_floats
        return quantized


class _Placer:
    """Replaces the planned nodes of one GraphModule by calls of QuantizedLayers."""

    def __init__(self, traced: fx.GraphModule, plan: QuantPlan, registry: Registry, folds: Folds[fx.Node]) -> None:
        self._traced = traced
        self._plan = plan
        self._nodes = {node.name: node for node in traced.graph.nodes}
        self._folds = folds
        self._factory = LayerFactory(plan, share_inputs(traced, plan, registry))

    def place_all(self) -> None:
        layers, paths = LayerContainer(self._traced.training), self._paths()
        self._traced.add_module(LAYERS, layers)
        for plan in self._plan.layers.values():
            layer = self._make_layer(plan)
            add_layer(layers, plan.name, layer.train(self._traced.training))
            self._replace(plan)
        note_standing(self._traced, layers, paths)

    def _paths(self) -> dict[str, str]:
        """Returns the paths of the modules that layers compute with, each with its layer."""
        nodes = [(self._nodes[name], plan.name) for plan in self._plan.layers.values() for name in _nodes_of(plan)]
        return {str(node.target): layer for node, layer in nodes if node.op == "call_module"}

    def _make_layer(self, plan: LayerPlan) -> QuantizedLayer:
        node = self._nodes[plan.name]
        call = LayerCall(callable_of(self._traced, node), tuple(one.edge for one in plan.inputs))
        weighted = None
        if plan.weight is not None:
            weighted = weighted_op(call.function, plan.op.role, self._folds.by_weight.get(node))
        layer = self._factory.make(plan, call, weighted)
        layer.constant_inputs = frozenset(one.index for one in plan.inputs if one.edge.is_constant)
        return layer

    def _replace(self, plan: LayerPlan) -> None:
        node = self._nodes[plan.name]
        node.op, node.target = "call_module", f"{LAYERS}.{plan.name}"
        for name in reversed((*plan.folded.front, *plan.folded.behind)):
            member = self._nodes[name]
            member.replace_all_uses_with(self._folds.data[member])
            self._traced.graph.erase_node(member)


def _nodes_of(plan: LayerPlan) -> tuple[str, ...]:
    """Returns the nodes that the layer replaces."""
    return (plan.name, *plan.folded.front, *plan.folded.behind)
