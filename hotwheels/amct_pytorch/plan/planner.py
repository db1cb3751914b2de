"""Makes the QuantPlan: which quantizer on which input, which siblings share one, which BatchNorm is folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.arguments.quantizer_check import effective_args, is_custom
from ..config.layers.layer_rules import is_symmetric
from ..config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..graph import Edge, OpGraph, OpNode, Skip
from ..ops.desc import Role
from .quant_plan import InputPlan, LayerPlan, QuantPlan

_FOLDING_ROLES = (Role.CONV, Role.CONV_TRANSPOSE)
_GroupKey = tuple[str, bool, str, tuple[tuple[str, str], ...]]


def make_plan(graph: OpGraph, config: QuantConfig) -> QuantPlan:
    """Returns the plan of all enabled layers of ``config``, in graph order.

    ``config`` has been checked against ``graph``: its layers exist and have one quantizer per edge.
    """
    groups: dict[_GroupKey, str] = {}
    weight_groups: dict[tuple[str, str], str] = {}
    layers = {}
    for node in graph.quantizable:
        layer = config.layers.get(node.name)
        if layer is not None and layer.quant_enable:
            layers[node.name] = _plan_layer(graph, node, layer, groups, weight_groups)
    return QuantPlan(layers, _skips(graph, config))


def settings_of(config: QuantizerConfig, is_weight: bool = False) -> dict[str, Any]:
    """Returns what makes two quantizers behave alike: all arguments, given or by default, but the log name."""
    return {key: value for key, value in effective_args(config, is_weight).items() if key != "object_layer"}


def folded_batch_norm(graph: OpGraph, node: OpNode) -> str | None:
    """Returns the BatchNorm that is folded into the convolution ``node``, or None (spec 6.7)."""
    if node.op is None or node.op.role not in _FOLDING_ROLES:
        return None
    consumers = graph.consumers[node.name]
    if len(consumers) == 1 and graph[consumers[0]].is_fold_target:
        return consumers[0]
    return None


def _plan_layer(
    graph: OpGraph,
    node: OpNode,
    config: LayerConfig,
    groups: dict[_GroupKey, str],
    weight_groups: dict[tuple[str, str], str],
) -> LayerPlan:
    assert node.op is not None
    inputs = []
    for index, (edge, quantizer) in enumerate(zip(node.edges, config.activations, strict=True)):
        group = groups.setdefault(_group_key(node, edge, quantizer), f"{node.name}:{index}")
        inputs.append(InputPlan(index=index, edge=edge, quantizer=quantizer, group=group))
    weight_group = ""
    if config.weight is not None:
        settings = settings_of(config.weight, is_weight=True)
        key = (node.weight_name or node.module_path or node.name, _frozen(config.weight.quantizer, settings))
        weight_group = weight_groups.setdefault(key, node.name)
    return LayerPlan(
        name=node.name,
        op=node.op,
        inputs=tuple(inputs),
        weight=config.weight,
        weight_group=weight_group,
        batch_norm=folded_batch_norm(graph, node),
    )


def _group_key(node: OpNode, edge: Edge, quantizer: QuantizerConfig) -> _GroupKey:
    # A Linear may turn out to have more than 2 dimensions and be forced symmetric; only other Linears go along with
    # that, and what is symmetric anyway.
    is_linear = node.op is not None and node.op.role is Role.LINEAR
    may_change = is_linear and (is_custom(quantizer.quantizer) or not is_symmetric(quantizer))
    return edge.producer, may_change, quantizer.quantizer, _pairs(settings_of(quantizer))


def _pairs(args: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(value)) for key, value in args.items()))


def _frozen(quantizer: str, args: Mapping[str, Any]) -> str:
    return repr((quantizer, _pairs(args)))


def _skips(graph: OpGraph, config: QuantConfig) -> tuple[Skip, ...]:
    off = [
        Skip(node.name, "quant_enable is false" if node.name in config.layers else "not in the configuration")
        for node in graph.quantizable
        if node.name not in config.layers or not config.layers[node.name].quant_enable
    ]
    return (*graph.skips, *off)
