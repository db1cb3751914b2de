"""Replaces other spellings of products by ``torch.matmul``, so that only one product has to be quantized.

The node keeps its name and becomes the product; the rest of the call becomes nodes named ``<name>_<part>``.

1. ``mm``;
2. ``baddbmm(input, a, b, beta, alpha)``: ``a @ b * alpha + input * beta``;
3. ``addmm`` likewise, unless both the matrix and the bias are weights: that is a Linear (`weighted_calls`);
4. ``einsum`` of two operands if it is a matrix product: the axes are brought into the order of a product.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..read.float_reason import mark_float
from ..read.spelling import remember_spelling
from .einsum import Product, as_product
from .inline import Inline
from .weight_sources import WeightSources
from .weighted_calls import is_linear

_NO_PRODUCT = "this einsum is no product of two matrices; write it as one, or leave it in float"


def spell_products(graph_module: GraphModule) -> None:
    """Rewrites ``graph_module`` in place."""
    sources = WeightSources(graph_module)
    for node in list(graph_module.graph.nodes):
        name = _name(node)
        if name == "mm":
            _call_matmul(node, *_bound(node, _mm))
        elif name == "baddbmm":
            _rewrite_sum(graph_module, node, *_bound(node, _baddbmm))
        elif name == "addmm" and not is_linear(node, sources):
            _rewrite_sum(graph_module, node, *_bound(node, _addmm))
        elif name == "einsum":
            _rewrite_einsum(graph_module, node, sources)
    graph_module.graph.lint()
    graph_module.recompile()


def _name(node: Node) -> str:
    if node.op == "call_method":
        return str(node.target) if node.target in _METHODS else ""
    return _FUNCTIONS.get(node.target, "") if node.op == "call_function" else ""


_METHODS = frozenset({"mm", "baddbmm", "addmm"})
_FUNCTIONS: dict[Any, str] = {
    torch.mm: "mm",
    torch.baddbmm: "baddbmm",
    torch.addmm: "addmm",
    torch.einsum: "einsum",
}


# Signatures of the functions, since builtins have none.
def _mm(input: Any, mat2: Any) -> None: ...


def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> None: ...


def _baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> None: ...


def _bound(node: Node, signature: Callable[..., None]) -> list[Any]:
    bound = inspect.signature(signature).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return list(bound.arguments.values())


def _call_matmul(node: Node, left: Any, right: Any) -> None:
    remember_spelling(node)
    node.op, node.target, node.args, node.kwargs = "call_function", torch.matmul, (left, right), {}


def _rewrite_sum(root: GraphModule, node: Node, summand: Any, left: Any, right: Any, beta: float, alpha: float) -> None:
    def add(place: Inline, product: Any) -> Any:
        product = product if alpha == 1 else product * alpha
        added = place.proxies(summand)
        return product + (added if beta == 1 else added * beta)

    _call_matmul(node, left, right)
    _write_behind(root, node, add)


def _rewrite_einsum(root: GraphModule, node: Node, sources: WeightSources) -> None:
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    product = as_product(equation) if isinstance(equation, str) and len(operands) == 2 else None
    if product is None:
        mark_float(node, _NO_PRODUCT)
        return
    if operands[0] in sources:  # the weight of a Linear is the second operand of a product
        product, operands = Product(product.second, product.first, product.result), operands[::-1]
    place = Inline(root, root.graph, "", node.name)
    with root.graph.inserting_before(node):
        left, right = product.arranged(*(place.proxies(one) for one in operands))
    _call_matmul(node, left.node, right.node)
    _write_behind(root, node, lambda place, result: product.restored(result, *map(place.proxies, operands)))


def _write_behind(root: GraphModule, node: Node, write: Callable[[Inline, Any], Any]) -> None:
    """Makes all readers of ``node`` read the result of ``write`` on it."""
    place = Inline(root, root.graph, "", node.name)
    readers = list(node.users)
    with root.graph.inserting_before(node.next):
        result = write(place, place.proxies(node)).node
    for reader in readers:
        reader.replace_input_with(node, result)
    _hand_on_line(node, result)


def _hand_on_line(node: Node, last: Node) -> None:
    """Copies the user's source line from ``node`` to the new nodes behind it, up to ``last``."""
    while node is not last:
        node.next.stack_trace = node.stack_trace
        node = node.next
