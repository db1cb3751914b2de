"""Advice on how the model is written: operations without effect, offline convolutions, chunk.

HiSilicon's AMCT manual, FAQ.

These rules use the traced graph, which has arguments that an OpGraph does not have.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from ....graph import OpNode
from ....ops.desc import Role
from ....ops.registry import Registry
from ....plan.advice import Advice, AdviceRule, Document, Remedy
from ....plan.configured_graph import ConfiguredGraph
from ....plan.remedies import left_in_float, skipping
from ...real_quant.known import is_known
from .called import callable_of
from .operands import operand_values
from .values import Value, classify

_CONVOLUTIONS = frozenset({Role.CONV, Role.CONV_TRANSPOSE})
# The operand with which the operation changes nothing, and whether it may be the first operand too.
_NEUTRAL: Mapping[str, tuple[int, bool]] = {
    "add": (0, True),
    "sub": (0, False),
    "mul": (1, True),
    "div": (1, False),
    "pow": (1, False),
}
_PHRASES = {
    "add": "adds 0",
    "sub": "subtracts 0",
    "mul": "multiplies by 1",
    "div": "divides by 1",
    "pow": "raises to the power 1",
}
_SUM = "adds a tensor to 0, as sum() does first"


def model_advice(traced: fx.GraphModule, model: ConfiguredGraph, registry: Registry) -> tuple[Advice, ...]:
    """Returns the advice on ``traced``, described by ``model``. Call it before layers are placed."""
    values = classify(traced.graph, registry)
    return (*_no_effect(traced, model), *_offline(traced, model, values), *_chunks(traced, values))


def _no_effect(traced: fx.GraphModule, model: ConfiguredGraph) -> Iterator[Advice]:
    found: dict[str, list[str]] = {}
    for node in traced.graph.nodes:
        phrase = _idle_phrase(node, model.graph[node.name]) if model.layer(node.name) is not None else None
        if phrase is not None:
            found.setdefault(phrase, []).append(node.name)
    for phrase, names in found.items():
        write = "Write a + b + c instead of sum([a, b, c])" if phrase == _SUM else "Take it out of the model"
        yield Advice(
            rule=AdviceRule.NO_EFFECT,
            layers=tuple(names),
            finding=f"{_quoted(names)}: {phrase}",
            reason="It stays in the deployed model, and rounds the tensor to a grid once more",
            remedies=(Remedy(write), *_in_float(left_in_float(model, names))),
        )


def _idle_phrase(node: fx.Node, found: OpNode) -> str | None:
    """Returns the phrase for a quantizable operation that changes nothing; None for other operations."""
    if found.op is None or found.op.name not in _NEUTRAL or node.op == "call_module":
        return None
    neutral, may_be_first = _NEUTRAL[found.op.name]
    first, second = operand_values(node, found.op)
    if _is_number(second, neutral) and not node.kwargs.get("rounding_mode"):
        return _PHRASES[found.op.name]
    if may_be_first and _is_number(first, neutral):
        return _SUM if found.op.name == "add" else _PHRASES[found.op.name]
    return None


def _is_number(value: Any, number: int) -> bool:
    return isinstance(value, int | float) and value == number


def _offline(traced: fx.GraphModule, model: ConfiguredGraph, values: Mapping[fx.Node, Value]) -> Iterator[Advice]:
    offline = _offline_nodes(traced, values)
    for node in traced.graph.nodes:
        op = model.graph[node.name].op
        if op is None or op.role not in _CONVOLUTIONS or model.layer(node.name) is None:
            continue
        origin = offline.get(node.all_input_nodes[0])
        if origin is not None:
            yield _offline_advice(node, origin)


def _offline_advice(node: fx.Node, origin: fx.Node) -> Advice:
    return Advice(
        rule=AdviceRule.OFFLINE_CONVOLUTION,
        layers=(node.name,),
        finding=f"The convolution '{node.name}' is computed from the .data of '{origin.all_input_nodes[0].name}'",
        reason="The converter computes such a convolution by itself, and cannot if it is quantized. The files of this"
        " package read the tensor itself; those of other exporters hold its values of one run",
        remedies=(*_in_float(skipping([node.name])), Remedy("Write x or x.detach() instead of x.data")),
    )


def _offline_nodes(traced: fx.GraphModule, values: Mapping[fx.Node, Value]) -> dict[fx.Node, fx.Node]:
    """Returns the nodes whose result other exporters take for a constant, each with the ``.data`` that makes it so."""
    found: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if not node.op.startswith("call") or not is_known(callable_of(traced, node)):
            continue
        online = [one for one in node.all_input_nodes if values[one] in (Value.TENSOR, Value.INTEGER)]
        if online and all(one in found for one in online):
            found[node] = found[online[0]]
        elif _is_data(node):
            found[node] = node
    return found


def _is_data(node: fx.Node) -> bool:
    return node.target is getattr and node.args[1] == "data"


def _chunks(traced: fx.GraphModule, values: Mapping[fx.Node, Value]) -> Iterator[Advice]:
    found = [node for node in traced.graph.nodes if _is_chunk(node) and values[node] is Value.TENSOR]
    if not found:
        return
    calls = ", ".join(f"'{node.name}' {_chunk_call(node)}" for node in found)
    yield Advice(
        rule=AdviceRule.CHUNK,
        layers=tuple(node.name for node in found),
        finding=f"chunk, which is not in the list of quantizable operations: {calls}",
        reason="At opset 13 it is exported as arithmetic on sizes and slices, none of which is quantized",
        remedies=(
            Remedy(
                "Write split, which is a layer: x.chunk(n, dim) is x.split(size, dim), size being x.shape[dim] / n,"
                " rounded up, as a number"
            ),
        ),
    )


def _is_chunk(node: fx.Node) -> bool:
    return node.target == "chunk" if node.op == "call_method" else node.target is torch.chunk


def _chunk_call(node: fx.Node) -> str:
    names = ("chunks", "dim")
    given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    return f"({', '.join(f'{name}={given[name]}' for name in names if name in given)})"


def idle_slices(traced: fx.GraphModule, shapes: Mapping[str, torch.Size]) -> tuple[Advice, ...]:
    """Returns the advice on slices that return all of their tensor; ``shapes`` are those of one run, by node name."""
    names = [node.name for node in traced.graph.nodes if _slices(node) and _keeps_all(node, shapes)]
    if not names:
        return ()
    found = Advice(
        rule=AdviceRule.NO_EFFECT,
        layers=tuple(names),
        finding=f"{_quoted(names)}: a slice that holds all of its tensor, of the inputs given",
        reason="It stays in the deployed model",
        remedies=(Remedy("Take it out of the model"),),
    )
    return (found,)


def _slices(node: fx.Node) -> bool:
    """Whether ``node`` is a slice with an end; exported files have no node for ``x[:]``."""
    if node.target is not operator.getitem:
        return False
    index = node.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(one, slice) and one != slice(None) for one in parts)


def _keeps_all(node: fx.Node, shapes: Mapping[str, torch.Size]) -> bool:
    source = node.all_input_nodes[0].name
    return source in shapes and shapes.get(node.name) == shapes[source]


def _in_float(settings: Document | None) -> tuple[Remedy, ...]:
    return () if settings is None else (Remedy("Leave it in float", settings),)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
