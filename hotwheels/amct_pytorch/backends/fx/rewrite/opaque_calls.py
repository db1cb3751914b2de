"""Traces opaque functions that multiply (``torch.fx.wrap``), if the trace of the model has an example.

The call of such a function is replaced by the function's operations, in nodes ``<name of the call>_<operation>``;
all other names do not change. So the products inside become layers. A call is not replaced

1. if the function has no product, since no layer would be gained;
2. if the function cannot be traced for every number of samples;
3. if it has a dropout with p > 0, calls a module, or does not return exactly one tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ....errors import UnsupportedModelError
from ....log import get_logger
from ....ops.registry import Registry
from ...real_quant.float_products import is_float_product
from ...real_quant.known import is_known, op_of
from ..read.called import callable_of
from ..trace.capture import trace
from ..trace.frozen import is_check
from ..trace.guided.tracer import VALUE, WRITES

_log = get_logger(__name__)
_CONSTANT = "amct_constant"  # start of the name of a function's constant in the graph module
_MOST = 4  # largest number of arguments that are data
_DROPOUTS = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout})


def look_into_opaque_calls(graph_module: GraphModule, registry: Registry) -> None:
    """Rewrites ``graph_module``, whose nodes have the values of an example, in place."""
    waiting = [node for node in graph_module.graph.nodes if _is_opaque(node)]
    while waiting:
        node = waiting.pop()
        inside = _traced(graph_module, node, registry)
        if inside is not None:
            waiting += _inline(graph_module, node, *inside)
    graph_module.graph.lint()
    graph_module.recompile()


class _Called(nn.Module):
    """A function call as a module: data tensors are arguments of the forward, constants are parameters and buffers."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, constants: dict[str, Tensor]) -> None:
        super().__init__()
        self._call = function, args, kwargs
        for name, value in constants.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, first: Any, second: Any = None, third: Any = None, fourth: Any = None) -> Any:
        """Calls the function with up to `_MOST` tensors of the data."""
        function, args, kwargs = self._call
        given = iter((first, second, third, fourth))
        filled: dict[str, Any] = {}

        def fill(node: Node) -> Any:
            name = node.name
            if name not in filled:
                filled[name] = getattr(self, name) if name in {*self._parameters, *self._buffers} else next(given)
            return filled[name]

        return function(*map_arg(args, fill), **map_arg(kwargs, fill))


def _is_opaque(node: Node) -> bool:
    return node.op == "call_function" and not is_known(node.target) and isinstance(node.meta.get(VALUE), Tensor)


def _traced(graph_module: GraphModule, node: Node, registry: Registry) -> tuple[GraphModule, list[Node]] | None:
    """Returns the graph of the function that ``node`` calls, and its arguments; None if the call is not replaced."""
    constants, data = _arguments(graph_module, node)
    if constants is None:
        return None
    args, kwargs = (map_arg(one, lambda arg: arg if isinstance(arg.meta.get(VALUE), Tensor) else False)
                    for one in (node.args, node.kwargs))  # fmt: skip
    assert callable(node.target)
    called = _Called(node.target, args, kwargs, constants)
    example = tuple(torch.zeros(one.meta[VALUE].shape, dtype=one.meta[VALUE].dtype) for one in data)
    try:
        inside = trace(called.eval(), registry.leaf_packages, registry.is_leaf_type, example)
    except UnsupportedModelError as error:
        _log.debug("The function of '%s' stays one call: %s", node.name, str(error).splitlines()[0])
        return None
    return (inside, data) if _gains(inside, registry) else None


def _arguments(graph_module: GraphModule, node: Node) -> tuple[dict[str, Tensor] | None, list[Node]]:
    """Returns the constants among the arguments by name, and the data; None if an argument is neither of them."""
    known = _without_data(graph_module)
    constants: dict[str, Tensor] = {}
    data: list[Node] = []
    for one in node.all_input_nodes:
        value = one.meta.get(VALUE)
        if one in known and isinstance(value, Tensor) and value.is_floating_point():
            constants[one.name] = nn.Parameter(torch.zeros(value.shape, dtype=value.dtype), requires_grad=False)
        elif one.op == "get_attr" and isinstance(value, Tensor):
            constants[one.name] = _attribute(graph_module, str(one.target))
        elif isinstance(value, Tensor):
            data.append(one)
        elif not (one.op == "get_attr" and str(one.target).rpartition(".")[2] == "training"):
            return None, []
    return (constants, data) if 0 < len(data) <= _MOST else (None, [])


def _without_data(graph_module: GraphModule) -> set[Node]:
    """Returns the nodes that depend on no input of the model, also results of opaque functions."""
    found: set[Node] = set()
    for node in graph_module.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and found.issuperset(inputs)):
            found.add(node)
    return found


def _gains(inside: GraphModule, registry: Registry) -> bool:
    nodes = inside.graph.nodes
    if any(one.op == "call_module" for one in nodes) or not isinstance(next(reversed(nodes)).args[0], Node):
        return False
    if any(one.op == "call_function" and one.target in _DROPOUTS and _drops(one) for one in nodes):
        return False
    calls = [callable_of(inside, one) for one in nodes if one.op in ("call_function", "call_method")]
    return any(one is torch.einsum or is_float_product(one, op_of(one, registry)) for one in calls)


def _drops(node: Node) -> bool:
    return bool(node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5))


def _inline(graph_module: GraphModule, node: Node, inside: GraphModule, data: list[Node]) -> list[Node]:
    """Replaces ``node`` by the nodes of ``inside``; returns the opaque calls among them."""
    graph, places = graph_module.graph, {one.name: one for one in node.all_input_nodes}
    given = iter(data)
    made: dict[Node, Any] = {}
    with graph.inserting_before(node):
        for one in inside.graph.nodes:
            if one.op == "placeholder":
                made[one] = next(given, None)
            elif one.op == "get_attr" and one.target in places:
                made[one] = places[one.target]
            elif is_check(one) and made.get(one.args[0], one) is None:
                made[one] = None  # a check of an argument that the function does not have
            elif one.op == "output":
                node.replace_all_uses_with(made[one.args[0]])
            else:
                made[one] = _copied(graph_module, node, one, inside, made)
    graph.erase_node(node)
    return [one for one in made.values() if one is not None and _is_opaque(one)]


def _copied(graph_module: GraphModule, node: Node, one: Node, inside: GraphModule, made: dict[Node, Any]) -> Node:
    target: Any = one.target
    if one.op == "get_attr":
        target = f"{_CONSTANT}_{node.name}_{str(target).replace('.', '_')}"
        graph_module.register_buffer(target, _attribute(inside, str(one.target)), persistent=False)
    args, kwargs = map_arg((one.args, one.kwargs), lambda arg: made[arg])
    copy = graph_module.graph.create_node(one.op, target, args, kwargs, name=f"{node.name}_{one.name}")
    copy.meta = {**one.meta, "stack_trace": node.meta.get("stack_trace")}
    if WRITES in one.meta:
        copy.meta[WRITES] = tuple(made[written] for written in one.meta[WRITES])
    return copy


def _attribute(graph_module: GraphModule, target: str) -> Tensor:
    path, _, name = target.rpartition(".")
    found: Tensor = getattr(graph_module.get_submodule(path), name)
    return found
