"""Finds the nodes that are weights: parameters, buffers, and tensors computed from these alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ....nn.call import MethodCall
from ....nn.computed_tensor import ComputedTensor, Ref, Step, Tree
from ...calls.no_ops import is_copy
from ..read.spelling import in_place_reason, is_written
from ..trace.frozen import known_number
from ..trace.guided.batch import FIXED
from ..trace.guided.tracer import VALUE

_MAKERS = frozenset({"new_tensor", "new_ones", "new_zeros", "new_full"})
_RANDOM = frozenset({"bernoulli", "normal", "multinomial", "poisson"})


class WeightSources:
    """The nodes of one graph whose results depend on parameters and buffers only, as ComputedTensors."""

    def __init__(self, graph_module: GraphModule, with_sizes: bool = False) -> None:
        """``with_sizes``: known sizes of the data, which do not depend on the batch, count as constants."""
        self._with_sizes = with_sizes
        self.tree = Tree(graph_module)
        self._module = graph_module
        named = graph_module.named_parameters()
        self._parameter = next((name for name, one in named if one.dtype == torch.float32), None)
        self._weights: dict[Node, ComputedTensor] = {}
        self._nodes: set[Node] = set()
        for node in graph_module.graph.nodes:
            if self._is_source(node):
                self._nodes.add(node)

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def tensor(self, value: Any) -> ComputedTensor | None:
        """Returns the ComputedTensor of the node ``value``, the same object each time; None if it is no weight."""
        if value not in self._nodes:
            return None
        if value not in self._weights:
            self._weights[value] = self._computed(value)
        return self._weights[value]

    def has_parameter(self, node: Node) -> bool:
        """Whether the weight ``node`` is computed from a parameter or a module, among others."""
        return any(
            one.op == "call_module" or isinstance(self.tree.find(str(one.target)), nn.Parameter)
            for one in self._in_order(node)
            if one.op in ("call_module", "get_attr")
        )

    def sizes(self, arguments: Any) -> list[Node]:
        """Returns the nodes in ``arguments`` of a call, and in its weights, whose known numbers become constants."""
        found: list[Node] = []

        def add(node: Node) -> Node:
            found.extend([one for one in self._in_order(node) if self._is_size(one)] if node in self else [node])
            return node

        map_arg(arguments, add)
        return found

    def setting(self, value: Any) -> Any:
        """Returns a Python argument of a call, with the numbers of the nodes in it; raises LookupError if unknown."""
        return map_arg(value, self._number)

    def _number(self, node: Node) -> Any:
        found = self.tensor(node)
        if found is not None:
            with torch.no_grad():
                return found()
        known = known_number(node)
        if known is None:
            raise LookupError(node.name)
        return known

    def _is_source(self, node: Node) -> bool:
        """Whether ``node`` is a weight; not if an operation changes it in place: its value then varies."""
        if self._is_size(node) or self._is_kind(node) or self._is_made(node):
            return True
        if node.op == "get_attr":
            is_tensor = isinstance(self.tree.find(str(node.target)), Tensor)
            return is_tensor and not is_written(node)
        if in_place_reason(node) is not None:
            return False
        if node.op == "call_module":
            return self._nodes.issuperset(node.all_input_nodes)
        if not node.all_input_nodes or not node.op.startswith("call") or _is_random(node):
            return False
        return self._nodes.issuperset(node.all_input_nodes) or self._is_cast(node)

    def _is_size(self, node: Node) -> bool:
        return self._with_sizes and FIXED in node.meta and not self._nodes.issuperset(node.all_input_nodes)

    def _is_kind(self, node: Node) -> bool:
        """Whether ``node`` is the type or the device of the data, with which a forward makes a constant."""
        is_asked = node.target is getattr and node.args[1] in ("dtype", "device")
        return is_asked and self._parameter is not None and not self._nodes.issuperset(node.all_input_nodes)

    def _is_made(self, node: Node) -> bool:
        """Whether ``node`` makes a constant of the type and on the device of the data, such as ``x.new_ones(4)``."""
        if node.op != "call_method" or node.target not in _MAKERS or self._parameter is None or not node.args:
            return False
        data, *others = node.all_input_nodes
        return data is node.args[0] and data not in self._nodes and self._nodes.issuperset(others)

    def _is_cast(self, node: Node) -> bool:
        """Whether ``node`` casts a weight to the type or device of the data, which has no effect in a float32 model."""
        if node.op != "call_method" or not node.args or node.args[0] not in self._nodes:
            return False
        return node.target in ("to", "type_as") and is_copy(MethodCall(str(node.target)), node.args, node.kwargs)

    def _computed(self, node: Node) -> ComputedTensor:
        steps: list[Step] = []
        places: dict[Node, Ref] = {}
        for one in self._in_order(node):
            if self._is_kind(one) or self._is_made(one):  # as of a parameter: a model is in float32, on one device
                steps.append(Step(str(self._parameter)))
            places[one] = Ref(len(steps))
            steps.append(self._step(one, places))
        return ComputedTensor(node.name, self.tree, tuple(steps))

    def _in_order(self, node: Node) -> list[Node]:
        """Returns ``node`` and all nodes from which it is computed, in graph order."""
        found: set[Node] = set()
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += [*self._inputs(one)]
        return [one for one in self._module.graph.nodes if one in found]

    def _inputs(self, node: Node) -> list[Node]:
        if self._is_made(node):
            return node.all_input_nodes[1:]
        inputs = [] if self._is_size(node) or self._is_kind(node) else node.all_input_nodes
        return inputs if self._nodes.issuperset(inputs) else inputs[:1]

    def _step(self, node: Node, places: dict[Node, Ref]) -> Step:
        if node.op == "get_attr":
            return Step(str(node.target))
        if self._is_size(node):
            return Step(_same, True, (node.meta[VALUE],))
        parameter = Ref(places[node].index - 1)
        if self._is_kind(node):
            return Step(getattr, True, (parameter, node.args[1]))
        if self._is_made(node):
            args, kwargs = _with_refs((node.args[1:], node.kwargs), places)
            return Step(MethodCall(str(node.target)), True, (parameter, *args), kwargs)
        if not self._nodes.issuperset(node.all_input_nodes):  # a cast
            return Step(_same, True, (places[node.all_input_nodes[0]],))
        args, kwargs = _with_refs((node.args, node.kwargs), places)
        target = MethodCall(str(node.target)) if node.op == "call_method" else node.target
        return Step(target, True, args, kwargs)


def _is_random(node: Node) -> bool:
    """Whether ``node`` draws random numbers: its result is no weight that a file could hold."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.startswith("rand") or name in _RANDOM


def _same(x: Any) -> Any:
    return x


def _with_refs(arguments: Any, places: dict[Node, Ref]) -> Any:
    """Returns the arguments as plain tuples, lists, dicts and slices, with a Ref for each node."""

    def convert(value: Any) -> Any:
        if isinstance(value, Node):
            return places[value]
        if isinstance(value, (tuple, list)):
            return (tuple if type(value) is tuple else list)(map(convert, value))
        if isinstance(value, dict):
            return {key: convert(one) for key, one in value.items()}
        return slice(*map(convert, (value.start, value.stop, value.step))) if isinstance(value, slice) else value

    return convert(arguments)
