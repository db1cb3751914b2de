"""Replaces functions called with a weight of the model by modules that have this weight.

``F.conv2d(x, w, b, ...)`` with ``w`` and ``b`` computed from parameters and buffers alone becomes the call of a
`WeightedCall` on ``x``, in the same node: the name is kept, and the call is treated like a Conv2d from then on.

1. ``F.conv2d`` (``torch.conv2d``), ``F.conv1d``, ``F.conv_transpose2d``, ``F.conv_transpose1d``;
2. ``F.linear`` with a matrix;
3. ``x @ w``, ``torch.matmul``, ``torch.addmm(b, x, w)`` and their methods, where ``w`` is a matrix computed from
   parameters: a Linear. A product with a buffer stays a product, whose second input is a constant.

A call that stays a function gets a reason, except if its weight depends on the data: reading the graph finds that case.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....nn.computed_tensor import ComputedTensor
from ....nn.weighted_call import (
    CALLS,
    Conv1dCall,
    Conv2dCall,
    ConvTranspose1dCall,
    ConvTranspose2dCall,
    LinearCall,
    WeightedCall,
)
from ...calls.written_parameter import written
from ..read.float_reason import mark_float
from ..read.spelling import remember_spelling
from ..trace.frozen import check_number
from .weight_sources import WeightSources

FOLDER = "amct_weights"  # the submodule that holds the new modules by node name

_DATA_BIAS = "its bias is computed from the data"
_DATA_SETTING = "its settings, such as the padding, are computed from the data; pass input_data to make them constants"
_WRONG_SHAPE = "its weight has {} dimensions, a layer of this kind has {}"


@dataclasses.dataclass(frozen=True)
class _Match:
    """A call that becomes a module.

    Attributes:
      input: Its data.
      make: Makes the module.
      sizes: Nodes whose numbers become constants of the module.
    """

    input: Node
    make: Callable[[], WeightedCall]
    sizes: Sequence[Node] = ()


def place_weighted_calls(graph_module: GraphModule) -> None:
    """Rewrites ``graph_module`` in place; erases nodes that compute weights and have no other reader."""
    sources, sized = WeightSources(graph_module), WeightSources(graph_module, with_sizes=True)
    found: dict[Node, _Match] = {}
    for node in graph_module.graph.nodes:
        match = _match(node, sources, sized)
        if isinstance(match, str):
            mark_float(node, match)
        elif match is not None:
            found[node] = match
    if not found:
        return
    folder = _folder(graph_module)
    made = {node: _make(match) for node, match in found.items()}
    for node, module in made.items():
        folder.add_module(node.name, module)
        _replace(node, found[node])
    folder.train(graph_module.training)
    erase_unread(graph_module, sized)


def place_call(
    graph_module: GraphModule,
    node: Node,
    module: nn.Module,
    weight: ComputedTensor | None,
    bias: ComputedTensor | None,
) -> None:
    """Makes ``node``, which calls ``module``, call one that computes ``weight`` and ``bias``; name and type are kept.

    Modules that are neither convolution nor Linear stay as they are.
    """
    kind = call_kind(module)
    if kind is None or weight is None:
        return
    remember_spelling(node)
    _folder(graph_module).add_module(node.name, kind.of(module, weight, bias))
    node.target = f"{FOLDER}.{node.name}"


def call_kind(module: nn.Module | None) -> type[WeightedCall] | None:
    """Returns the class that computes what ``module`` computes with any weight; None if there is none."""
    kinds = {call.twin: call for call in CALLS}
    return next((kinds[cls] for cls in type(module).__mro__ if cls in kinds), None)


def erase_unread(graph_module: GraphModule, sources: WeightSources) -> None:
    """Erases the nodes that compute weights and have no reader; not those that write what a module reads itself."""
    read: set[Tensor] = set()
    for node in reversed(graph_module.graph.nodes):
        if node.op == "call_module":
            module = graph_module.get_submodule(str(node.target))
            read.update((*module.parameters(), *module.buffers()))
        is_needed = node.target is written and sources.tree.find(str(node.args[0].target)) in read
        if node in sources and not node.users and not is_needed:
            graph_module.graph.erase_node(node)


def _folder(graph_module: GraphModule) -> nn.Module:
    """Returns the submodule that holds the new modules, made when it is first needed."""
    if FOLDER not in graph_module._modules:
        graph_module.add_module(FOLDER, nn.Module().train(graph_module.training))
    return graph_module.get_submodule(FOLDER)


def _match(node: Node, sources: WeightSources, sized: WeightSources) -> _Match | str | None:
    """Returns the match of a call, the reason why it stays a function, or None for other nodes.

    ``sized`` serves convolutions, whose weights have no size of the data but its channels. A product may be called
    with sequences of another length.
    """
    if is_linear(node, sources):
        return _match_product(node, sources)
    kind = _KINDS.get(node.target) if node.op == "call_function" else None
    if kind is None:
        return None
    sources = sources if node.target is F.linear else sized
    given = inspect.signature(kind.signature).bind(*node.args, **node.kwargs).arguments
    x, weight, bias = given.pop("input"), sources.tensor(given.pop("weight")), given.pop("bias", None)
    if x in sources or not isinstance(x, Node):
        return None  # the data is a constant too
    if weight is None:
        return None
    if bias is not None and bias not in sources:
        return _DATA_BIAS
    try:
        settings = {name: sources.setting(value) for name, value in given.items()}
    except LookupError:
        return _DATA_SETTING
    rank = weight.rank()
    if rank != kind.rank:
        return _WRONG_SHAPE.format(rank, kind.rank)
    sizes = sources.sizes([one for one in (*node.args, *node.kwargs.values()) if one is not x])
    return _Match(x, lambda: kind.module(weight, sources.tensor(bias), **settings), sizes)


def is_linear(node: Node, sources: WeightSources) -> bool:
    """Whether ``node`` is a product of the data with a matrix computed from parameters, perhaps with a bias."""
    kind = _PRODUCTS.get(node.target) if node.op in ("call_function", "call_method") else None
    if kind is None:
        return False
    given = _given(node, kind)
    weight = sources.tensor(given["right"])
    if weight is None or given["left"] in sources or not sources.has_parameter(given["right"]) or weight.rank() != 2:
        return False
    return "bias" not in given or _is_bias(sources.tensor(given["bias"]), weight)


def _match_product(node: Node, sources: WeightSources) -> _Match:
    given = _given(node, _PRODUCTS[node.target])
    weight, bias = sources.tensor(given["right"]), sources.tensor(given.get("bias"))
    alpha, beta = given.get("alpha", 1), given.get("beta", 1)
    assert weight is not None
    weight = weight.then(_transposed) if alpha == 1 else weight.then(_transposed).then(operator.mul, alpha)
    if bias is not None:
        bias = bias.then(torch.flatten) if beta == 1 else bias.then(torch.flatten).then(operator.mul, beta)
    return _Match(given["left"], lambda: LinearCall(weight, bias, is_product=True))


def _given(node: Node, signature: Callable[..., None]) -> dict[str, Any]:
    """Returns the arguments of a product by the names of ``signature``, whether given by position or keyword."""
    names = list(inspect.signature(signature).parameters)
    aliases = {"input": names[0], "other": "right", "mat1": "left", "mat2": "right"}
    kwargs = {aliases.get(name, name): value for name, value in node.kwargs.items()}
    return dict(zip(names, node.args, strict=False)) | kwargs


def _is_bias(bias: ComputedTensor | None, weight: ComputedTensor) -> bool:
    """Whether ``bias`` has one value per output."""
    if bias is None:
        return False
    with torch.no_grad():
        found, outputs = bias(), weight().shape[1]
    return bool(found.numel() == outputs == found.shape[-1])


def _transposed(matrix: Tensor) -> Tensor:
    return matrix.t()


@torch.no_grad()
def _make(match: _Match) -> WeightedCall:
    return match.make()


def _replace(node: Node, match: _Match) -> None:
    remember_spelling(node)
    for one in match.sizes:
        check_number(one)
    node.op, node.target, node.args, node.kwargs = "call_module", f"{FOLDER}.{node.name}", (match.input,), {}


# Signatures of the functions, which are builtins without any.
def _conv(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> None: ...


def _conv_transpose(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> None: ...


def _linear(input: Any, weight: Any, bias: Any = None) -> None: ...


def _matmul(left: Any, right: Any) -> None: ...


def _addmm(bias: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1) -> None: ...


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A function: its signature, the module class that takes its place, and how many dimensions its weight has."""

    signature: Callable[..., None]
    module: Callable[..., WeightedCall]
    rank: int


_KINDS: Mapping[Any, _Kind] = {
    F.conv2d: _Kind(_conv, Conv2dCall, 4),
    F.conv1d: _Kind(_conv, Conv1dCall, 3),
    F.conv_transpose2d: _Kind(_conv_transpose, ConvTranspose2dCall, 4),
    F.conv_transpose1d: _Kind(_conv_transpose, ConvTranspose1dCall, 3),
    F.linear: _Kind(_linear, LinearCall, 2),
}
_PRODUCTS: Mapping[Any, Callable[..., None]] = {
    operator.matmul: _matmul,
    torch.matmul: _matmul,
    "matmul": _matmul,
    torch.addmm: _addmm,
    "addmm": _addmm,
}
