"""Finds the values of a graph into which a mask has put -inf, or a number that would determine the range of a grid.

A mask is a constant with values that are not finite or below -1e4 (``x + mask``, ``masked_fill``, ``torch.where``,
``x[mask] = ...``), or a product with such a number (``(1 - mask) * -10000``). What is mixed of data and a mask stays
masked through changes of the shape and arithmetic, up to the softmax.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ....ops.registry import Registry
from ...calls.item_assignment import with_item
from ...calls.mask_values import is_mask
from ...calls.no_ops import NO_OP_MODULES
from ...calls.views import ONLY_READ, VIEWS, view_of, with_view
from ..rewrite.weight_sources import WeightSources

_SUMS = frozenset({"add", "sub", "iadd", "isub", "subtract", "EltwiseAdd", "EltwiseSub"})
_FILLS = frozenset({"masked_fill", "where", "with_item", "setitem", "masked_scatter", "index_fill"})
_PRODUCTS = frozenset({"mul", "imul", "truediv", "div", "multiply", "true_divide", "neg", "EltwiseMul", "EltwiseDiv"})
_MOVES = (
    VIEWS | ONLY_READ | {"view", "cat", "concat", "stack", "getitem", "clone", "contiguous", "float", "to", "type_as"}
)
_MADE = frozenset({"full", "full_like", "new_full"})


def masked_nodes(graph_module: GraphModule, registry: Registry) -> frozenset[Node]:
    """Returns the nodes whose results mix data with a mask, or are masks that depend on the data, if only its size."""
    return _Masks(graph_module, registry).found()


class _Masks:
    """Walks a graph front to back."""

    def __init__(self, graph_module: GraphModule, registry: Registry) -> None:
        self._module, self._registry = graph_module, registry
        self._sources = WeightSources(graph_module)
        self._masks: dict[Any, bool] = {}  # of constants
        self._pure: set[Node] = set()  # masks that are computed from data, such as an attention mask among the inputs

    def found(self) -> frozenset[Node]:
        mixed: set[Node] = set()
        for node in self._module.graph.nodes:
            if node in self._sources or not node.op.startswith("call"):
                continue
            name, inputs = _name(node, self._module, self._registry), node.all_input_nodes
            has_mask = any(map(self._is_mask, (*node.args, *node.kwargs.values())))
            if any(one in mixed for one in inputs):
                if name in _MOVES | _SUMS | _FILLS | _PRODUCTS:
                    mixed.add(node)
            elif has_mask and name in _SUMS | _FILLS:
                mixed.add(node)
            elif has_mask and name in _PRODUCTS | _MADE | _MOVES:  # such as a part of a constant, as long as the data
                self._pure.add(node)
        return frozenset(mixed | self._pure)

    def _is_mask(self, value: Any) -> bool:
        """Whether an argument is a number or constant with values of a mask, or a mask computed from data."""
        if isinstance(value, Node):
            if value in self._pure or value not in self._sources:
                return value in self._pure
            if value not in self._masks:
                self._masks[value] = _has_large(self._value(value))
            return self._masks[value]
        return isinstance(value, float | int) and not isinstance(value, bool) and is_mask(np.array(float(value)))

    @torch.no_grad()
    def _value(self, node: Node) -> Any:
        source = self._sources.tensor(node)
        return None if source is None else source()


def _has_large(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and is_mask(value.detach().float().cpu().numpy())


def _name(node: Node, graph_module: GraphModule, registry: Registry) -> str:
    """Returns the bare name of the called function or method; ``clone`` for modules that hand their input on."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        op = registry.find_module(type(module))
        return "clone" if isinstance(module, NO_OP_MODULES) else op.name if op is not None else ""
    if node.target is getattr or node.target in (view_of, with_view):
        return "view"
    if node.target is with_item or node.target is operator.setitem:
        return "with_item"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.strip("_") if name.endswith("_") else name
