"""Makes the QuantPlan: which quantizer on which input, which siblings share one, what is folded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ..config.arguments.quantizer_check import effective_args, is_custom
from ..config.layers.layer_rules import is_symmetric
from ..config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..graph import Edge, OpGraph, OpNode, Skip
from ..ops.desc import Role
from .quant_plan import InputPlan, LayerPlan, QuantPlan

_GroupKey = tuple[str, bool, str, tuple[tuple[str, str], ...]]


def make_plan(graph: OpGraph, config: QuantConfig) -> QuantPlan:
    """Returns the plan of all enabled layers of ``config``, in graph order.

    ``config`` has been checked against ``graph``: its layers exist and have one quantizer per edge.
    """
    enabled = {name: layer for name in graph.layers if (layer := config.layers.get(name)) and layer.quant_enable}
    groups = _groups(graph, enabled)
    grids = _grids(graph, enabled, groups)
    weight_groups: dict[tuple[str, str], str] = {}
    layers = {name: _plan_layer(graph, name, layer, groups, grids, weight_groups) for name, layer in enabled.items()}
    return QuantPlan(layers, _skips(graph, config))


def settings_of(config: QuantizerConfig, is_weight: bool = False) -> dict[str, Any]:
    """Returns all arguments, given or default, but for the log name: quantizers with equal settings behave alike."""
    return {key: value for key, value in effective_args(config, is_weight).items() if key != "object_layer"}


def _plan_layer(
    graph: OpGraph,
    name: str,
    config: LayerConfig,
    groups: Mapping[str, str],
    grids: Mapping[str, str],
    weight_groups: dict[tuple[str, str], str],
) -> LayerPlan:
    uses = graph.uses[name]
    first = uses[0]
    assert first.op is not None
    weight_group = ""
    if config.weight is not None:
        settings = settings_of(config.weight, is_weight=True)
        key = (first.weight_name or first.module_path or name, _frozen(config.weight.quantizer, settings))
        weight_group = weight_groups.setdefault(key, name)
    return LayerPlan(
        name=name,
        uses=tuple(node.name for node in uses),
        op=first.op,
        inputs=tuple(
            InputPlan(
                index=index,
                edge=first.edges[index],
                tensors=tuple(node.edges[index].producer for node in uses),
                quantizer=quantizer,
                group=groups[_slot(name, index)],
                grid=grids[groups[_slot(name, index)]],
            )
            for index, quantizer in enumerate(config.activations)
        ),
        weight=config.weight,
        weight_group=weight_group,
        folded=first.folded,
    )


def _groups(graph: OpGraph, layers: Mapping[str, LayerConfig]) -> dict[str, str]:
    """Returns the group of every input of ``layers``; a group has the name of one of its inputs.

    Inputs that read the same tensor with equal settings form a group. An input of a layer with several uses reads
    several tensors, so it joins the groups of all of them into one.
    """
    first_readers: dict[_GroupKey, str] = {}
    groups: dict[str, str] = {}
    for node in graph.quantizable:
        for index, (edge, quantizer) in enumerate(zip(node.edges, _activations(layers, node), strict=False)):
            slot = _slot(node.layer, index)
            reader = first_readers.setdefault(_group_key(node, edge, quantizer), slot)
            kept = groups.setdefault(reader, reader)
            given_up = groups.setdefault(slot, kept)
            if given_up != kept:
                groups.update({one: kept for one, group in groups.items() if group == given_up})
    return groups


def _grids(graph: OpGraph, layers: Mapping[str, LayerConfig], groups: Mapping[str, str]) -> dict[str, str]:
    """Returns for every group the group whose tensor determines its grid.

    That is the group behind an operation that selects, if no other quantized layer reads the operation's input. The
    range in front is wider (a ReLU drops its negative half) or merely another, and rounding to both loses levels twice.
    """
    readers: dict[str, set[str]] = defaultdict(set)
    for slot, group in groups.items():
        readers[group].add(slot.rpartition(":")[0])
    grids = {group: group for group in groups.values()}
    for node in reversed(graph.quantizable):
        behind = _behind(graph, layers, node, groups)
        if behind is None:
            continue
        group, settings = behind
        for index, own in enumerate(_activations(layers, node)):
            front = groups[_slot(node.layer, index)]
            if readers[front] == {node.layer} and _frozen(own.quantizer, settings_of(own)) == settings:
                grids[front] = grids[group]
    return grids


def _behind(
    graph: OpGraph, layers: Mapping[str, LayerConfig], node: OpNode, groups: Mapping[str, str]
) -> tuple[str, str] | None:
    """Returns the one group that reads the result of ``node``, and its settings; None if ``node`` does not select."""
    if node.op is None or not node.op.selects or len(graph.uses[node.layer]) > 1:
        return None
    found: dict[str, QuantizerConfig] = {}
    for consumer in (graph[name] for name in graph.consumers[node.name]):
        if not consumer.is_quantizable:
            continue
        for index, (edge, quantizer) in enumerate(zip(consumer.edges, _activations(layers, consumer), strict=False)):
            if edge.producer == node.name:
                found[groups[_slot(consumer.layer, index)]] = quantizer
    if len(found) != 1:
        return None
    ((group, quantizer),) = found.items()
    return None if is_custom(quantizer.quantizer) else (group, _frozen(quantizer.quantizer, settings_of(quantizer)))


def _activations(layers: Mapping[str, LayerConfig], node: OpNode) -> tuple[QuantizerConfig, ...]:
    return layers[node.layer].activations if node.layer in layers else ()


def _slot(layer: str, index: int) -> str:
    return f"{layer}:{index}"


def _group_key(node: OpNode, edge: Edge, quantizer: QuantizerConfig) -> _GroupKey:
    # A Linear on more than 2 dimensions is made symmetric at its first forward. So an asymmetric Linear shares its
    # quantizer with other Linears only.
    is_linear = node.op is not None and node.op.role is Role.LINEAR
    may_change = is_linear and (is_custom(quantizer.quantizer) or not is_symmetric(quantizer))
    return edge.producer, may_change, quantizer.quantizer, _pairs(settings_of(quantizer))


def _pairs(args: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(value)) for key, value in args.items()))


def _frozen(quantizer: str, args: Mapping[str, Any]) -> str:
    return repr((quantizer, _pairs(args)))


def _skips(graph: OpGraph, config: QuantConfig) -> tuple[Skip, ...]:
    off = [
        Skip(name, "quant_enable is false" if name in config.layers else "not in the configuration")
        for name in graph.layers
        if name not in config.layers or not config.layers[name].quant_enable
    ]
    return (*graph.skips, *off)
