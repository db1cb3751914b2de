"""Replaces other spellings of products by ``torch.matmul``, so that only one product has to be quantized.

``addcmul`` and ``addcdiv`` are replaced by their two operations, since these may be folded into a weight.

The node keeps its name and becomes the product; the rest of the call becomes nodes named ``<name>_<part>``.

1. ``mm``;
2. ``baddbmm(input, a, b, beta, alpha)``: ``a @ b * alpha + input * beta``;
3. ``addmm`` likewise, unless both the matrix and the bias are weights: that is a Linear (`weighted_calls`);
4. ``einsum`` of two operands if it is a matrix product: the axes are brought into the order of a product;
5. ``tensordot`` and ``inner`` likewise, if the number of axes is known: of parameters, with an example of all tensors;
6. ``multi_dot`` and ``chain_matmul``: products from left to right;
7. ``F.linear`` whose matrix is no weight: computed from the data, or from parameters and sizes;
8. ``bilinear``, also nn.Bilinear: a Linear on the first operand, then a product with the second one.

``torch.convolution`` is replaced by the function that it computes, such as ``F.conv2d``.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..read.float_reason import mark_float
from ..read.spelling import remember_spelling
from .einsum import Product, as_product
from .inline import Inline, attribute, write_behind
from .weight_sources import WeightSources
from .weighted_calls import is_linear

_LETTERS = string.ascii_letters
_NO_DOT = "the axes of this product are not known without input_data; write it as a matrix product, or pass input_data"
_NO_CONVOLUTION = "its weight is computed from the data, or it has no image or sequence"
_DATA_BILINEAR = "its weight is computed from the data"
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
        elif name == "linear":
            _rewrite_linear(graph_module, node, sources, *_bound(node, _linear))
        elif name == "einsum":
            _rewrite_einsum(graph_module, node, sources)
        elif name in _DOTS:
            _rewrite_dot(graph_module, node, sources, *_bound(node, _DOTS[name]))
        elif name in ("multi_dot", "chain_matmul"):
            _rewrite_chain(graph_module, node, name == "multi_dot")
        elif name == "convolution":
            _rewrite_convolution(node, sources, *_bound(node, _convolution))
        elif name == "bilinear":
            _rewrite_bilinear(graph_module, node, sources, *_bound(node, _bilinear))
        elif node.op == "call_module" and type(graph_module.get_submodule(str(node.target))) is nn.Bilinear:
            _rewrite_module(graph_module, node)
        elif name in _SUMS:
            _rewrite_elementwise(graph_module, node, _SUMS[name], *_bound(node, _addcmul))


def _name(node: Node) -> str:
    if node.op == "call_method":
        return str(node.target) if node.target in _METHODS else ""
    return _FUNCTIONS.get(node.target, "") if node.op == "call_function" else ""


_METHODS = frozenset({"mm", "baddbmm", "addmm", "inner", "addcmul", "addcdiv"})
_FUNCTIONS: dict[Any, str] = {
    torch.mm: "mm",
    torch.baddbmm: "baddbmm",
    torch.addmm: "addmm",
    F.linear: "linear",
    torch.einsum: "einsum",
    torch.tensordot: "tensordot",
    torch.inner: "inner",
    torch.linalg.multi_dot: "multi_dot",
    torch.chain_matmul: "chain_matmul",
    torch.addcmul: "addcmul",
    torch.addcdiv: "addcdiv",
    torch.convolution: "convolution",
    torch.bilinear: "bilinear",
    F.bilinear: "bilinear",
}


# Signatures of the functions, since builtins have none.
def _mm(input: Any, mat2: Any) -> None: ...


def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> None: ...


def _linear(input: Any, weight: Any, bias: Any = None) -> None: ...


def _tensordot(a: Any, b: Any, dims: Any = 2, out: Any = None) -> None: ...


def _inner(input: Any, other: Any) -> None: ...


def _addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> None: ...


def _convolution(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: Any, output_padding: Any,
    groups: Any = 1,
) -> None: ...  # fmt: skip


def _bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> None: ...


_DOTS: dict[str, Callable[..., None]] = {"tensordot": _tensordot, "inner": _inner}
_SUMS: dict[str, Any] = {"addcmul": torch.mul, "addcdiv": torch.div}


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
    write_behind(root, node, add)


def _rewrite_linear(root: GraphModule, node: Node, sources: WeightSources, x: Any, weight: Any, bias: Any) -> None:
    if weight in sources or _rank(weight, sources) != 2:
        return
    place = Inline(root, root.graph, "", node.name)
    with root.graph.inserting_before(node):
        matrix = place.proxies(weight).t()  # `<layer>_transpose` is the name of an auxiliary node (spec 9.1)
    _call_matmul(node, x, matrix.node)
    if bias is not None:
        write_behind(root, node, lambda place, product: product + place.proxies(bias))


def _rewrite_einsum(root: GraphModule, node: Node, sources: WeightSources) -> None:
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    product = as_product(equation) if isinstance(equation, str) and len(operands) == 2 else None
    if product is None:
        mark_float(node, _NO_PRODUCT)
        return
    _write_product(root, node, sources, product, operands)


def _rewrite_dot(
    root: GraphModule, node: Node, sources: WeightSources, first: Any, second: Any, *settings: Any
) -> None:
    """Writes a tensordot with ``settings`` (axes, out), or an inner product without any."""
    summed = _summed_axes(settings[0] if settings else ((-1,), (-1,)))
    ranks = [_rank(one, sources) for one in (first, second)]
    if summed is None or any(settings[1:]) or ranks[1] is None:
        mark_float(node, _NO_DOT)
        return
    if ranks[0] is None:
        # Without its rank only the last axes of the data are known: the others are the ellipsis of an einsum.
        if summed[0] != [*range(-len(summed[0]), 0)]:
            mark_float(node, _NO_DOT)
            return
        left = "." + _LETTERS[: len(summed[0])]
    else:
        left = _LETTERS[: ranks[0]]
    names = [left[axis] for axis in summed[0]]
    right = [*_LETTERS[_LETTERS.index("n") :][: ranks[1]]]
    for axis, name in zip(summed[1], names, strict=True):
        right[axis] = name
    kept = [axis for axis in left if axis not in names] + [axis for axis in right if axis not in names]
    _write_product(root, node, sources, Product(left, "".join(right), "".join(kept)), [first, second])


def _summed_axes(dims: Any) -> tuple[list[int], list[int]] | None:
    """Returns the summed axes of both operands; None if they are not known."""
    if isinstance(dims, int):
        return [*range(-dims, 0)], [*range(dims)]
    both = [[one] if isinstance(one, int) else one for one in dims] if isinstance(dims, (list, tuple)) else []
    if len(both) != 2 or not all(map(_is_list_of_numbers, both)) or not 0 < len(both[0]) == len(both[1]):
        return None
    return [*both[0]], [*both[1]]


def _is_list_of_numbers(axes: Any) -> bool:
    return isinstance(axes, (list, tuple)) and all(isinstance(axis, int) for axis in axes)


def _rank(operand: Any, sources: WeightSources) -> int | None:
    weight = sources.tensor(operand)
    if weight is not None:
        return weight.rank()
    value = operand.meta.get("val") if isinstance(operand, Node) else None
    return value.dim() if isinstance(value, Tensor) else None


def _rewrite_chain(root: GraphModule, node: Node, is_list: bool) -> None:
    operands = [*node.args[0]] if is_list else [*node.args]  # type: ignore[misc]
    if node.kwargs or len(operands) < 2:
        mark_float(node, _NO_DOT)
        return
    place = Inline(root, root.graph, "", node.name)
    with root.graph.inserting_before(node):
        left = place.proxies(operands[0])
        for one in operands[1:-1]:
            left = left @ place.proxies(one)
    _call_matmul(node, left.node, operands[-1])


def _rewrite_elementwise(
    root: GraphModule, node: Node, function: Any, summand: Any, first: Any, second: Any, value: float
) -> None:
    def add(place: Inline, product: Any) -> Any:
        return place.proxies(summand) + (product if value == 1 else product * value)

    remember_spelling(node)
    node.op, node.target, node.args, node.kwargs = "call_function", function, (first, second), {}
    write_behind(root, node, add)


def _rewrite_convolution(
    node: Node, sources: WeightSources, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: Any, output_padding: Any, groups: Any,
) -> None:  # fmt: skip
    tensor = sources.tensor(weight)
    kinds = {3: (F.conv1d, F.conv_transpose1d), 4: (F.conv2d, F.conv_transpose2d)}
    kind = None if tensor is None else kinds.get(tensor.rank())
    if kind is None or not isinstance(transposed, bool):
        mark_float(node, _NO_CONVOLUTION)
        return
    remember_spelling(node)
    rest: tuple[Any, ...] = (output_padding, groups, dilation) if transposed else (dilation, groups)
    node.target, node.kwargs = kind[transposed], {}
    node.args = (input, weight, bias, stride, padding, *rest)


def _rewrite_module(root: GraphModule, node: Node) -> None:
    """Writes the nn.Bilinear that ``node`` calls."""
    path = str(node.target)
    bound = inspect.signature(nn.Bilinear.forward).bind(None, *node.args, **node.kwargs).arguments
    with root.graph.inserting_before(node):
        values = [
            None if getattr(root.get_submodule(path), name) is None else attribute(root, node, f"{path}.{name}")
            for name in ("weight", "bias")
        ]
    _rewrite_bilinear(root, node, WeightSources(root), bound["input1"], bound["input2"], *values)


def _rewrite_bilinear(
    root: GraphModule, node: Node, sources: WeightSources, first: Any, second: Any, weight: Any, bias: Any
) -> None:
    """Writes ``sum(first[i] * weight[o, i, j] * second[j])`` as a Linear on ``first`` and a product with ``second``."""
    tensor = sources.tensor(weight)
    if tensor is None:
        mark_float(node, _DATA_BILINEAR)
        return
    outputs, _, inner = tensor().shape
    place = Inline(root, root.graph, "", node.name)
    with root.graph.inserting_before(node):
        matrix = place.proxies(weight).permute(0, 2, 1).flatten(0, 1)
        rows: Any = F.linear(place.proxies(first), matrix)  # a Proxy
        rows = rows.unflatten(-1, (outputs, inner))
        column = place.proxies(second).unsqueeze(-1)
    node.op, node.target, node.args, node.kwargs = "call_function", torch.matmul, (rows.node, column.node), {}
    write_behind(root, node, lambda place, y: y.squeeze(-1) if bias is None else y.squeeze(-1) + place.proxies(bias))


def _write_product(
    root: GraphModule, node: Node, sources: WeightSources, product: Product, operands: Sequence[Any]
) -> None:
    if operands[0] in sources:  # the weight of a Linear is the second operand of a product
        product, operands = Product(product.second, product.first, product.result), operands[::-1]
    place = Inline(root, root.graph, "", node.name)
    with root.graph.inserting_before(node):
        left, right = product.arranged(*(place.proxies(one) for one in operands))
    _call_matmul(node, left.node, right.node)
    write_behind(root, node, lambda place, result: product.restored(result, *map(place.proxies, operands)))
