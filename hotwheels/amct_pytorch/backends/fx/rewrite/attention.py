"""Attention as Linear, matmul and softmax: a fused operation of torch becomes nodes that can be quantized.

``torch.nn.MultiheadAttention``, the Transformer modules made of it, ``F.multi_head_attention_forward`` and
``F.scaled_dot_product_attention`` are single nodes of a stock trace. This pass replaces them by their formulas after
the trace, so that no other node's name changes.

1. ``softmax(q * scale @ k^T) @ v``, all of it quantizable;
2. under a mask the softmax is `masked_softmax`, in float;
3. a mask that is an optional input of the model (``mask=None``) is assumed to be usually absent: the softmax is
   quantizable, behind `masked_scores`, which without a mask returns its scores unchanged;
4. a call that the formula here does not cover stays one float node, with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ....nn.module_hooks import has_hooks
from ..read.float_reason import mark_float
from ..trace.dropout import owner_path
from .assemble import assemble, copy_training
from .attention_formulas import FORMULAS, FUNCTIONS, multihead_attention
from .inline import Inline, is_pick, nodes_behind, replace_node

Proxy = Any  # a torch.fx.Proxy: it has the operators of a tensor when the program runs, but does not declare them

_SETTINGS = ("need_weights", "average_attn_weights")
_FUNCTION_SETTINGS = ("dropout_p", "enable_gqa", "add_zero_attn", "use_separate_proj_weight")


def decompose_attention(graph_module: GraphModule) -> None:
    """Rewrites ``graph_module`` in place; attention modules in it get sub-modules (``q_proj``, ...) without state."""
    for node in list(graph_module.graph.nodes):
        formula = _formula(graph_module, node)
        if formula is None:
            continue
        arguments = _arguments(graph_module, node)
        if arguments is None:
            continue  # a call with wrong arguments, which will raise when it runs
        reason = _obstacle(graph_module, node, arguments)
        if reason is not None:
            mark_float(node, reason)
            continue
        path = str(node.target) if node.op == "call_module" else ""
        place = Inline(graph_module, graph_module.graph, path, node.name, _follows(arguments) or owner_path(node))
        if "need_weights" in inspect.signature(formula).parameters:
            arguments["need_weights"] = arguments.get("need_weights", True) and _reads_weights(node)
        before = node.prev
        with graph_module.graph.inserting_before(node):
            result = formula(place, **place.proxies(arguments))
        _hand_on_line(before, node)
        replace_node(node, result)


def _follows(arguments: dict[str, Any]) -> str:
    """Returns the path of the module whose training flag the call was given; empty if it was given none."""
    flag = arguments.get("training")
    return str(flag.target).removesuffix("training").removesuffix(".") if isinstance(flag, Node) else ""


def _hand_on_line(before: Node, node: Node) -> None:
    """Copies the user's source line from ``node`` to the new nodes between ``before`` and ``node``."""
    new = node.prev
    while new is not before:
        new.stack_trace = node.stack_trace
        new = new.prev


def trace_attention(model: nn.Module) -> GraphModule | None:
    """Returns the graph of a model that is itself an attention module, which torch.fx cannot trace; else None.

    ``need_weights`` and ``average_attn_weights`` keep their defaults and are no arguments of the graph.
    """
    formula = _formula_of(model)
    if formula is None or _module_obstacle(model) is not None:
        return None
    graph = Graph()
    place = Inline(model, graph, "", "")
    parameters = inspect.signature(model.forward).parameters.values()
    arguments = {one.name: _placeholder(graph, one) for one in parameters if one.name not in _SETTINGS}
    graph.output(nodes_behind(formula(place, **place.proxies(arguments))))
    traced = assemble(model, graph, type(model).__name__)
    copy_training(model, traced)
    return traced


def _placeholder(graph: Graph, parameter: inspect.Parameter) -> Node:
    if parameter.default is parameter.empty:
        return graph.placeholder(parameter.name)
    return graph.placeholder(parameter.name, default_value=parameter.default)


def is_attention(module: nn.Module) -> bool:
    """Whether ``module`` is torch's multi-head attention, or a subclass that computes the same."""
    return isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward


def _formula(root: GraphModule, node: Node) -> Callable[..., Any] | None:
    if node.op == "call_function":
        return FUNCTIONS.get(node.target)
    if node.op != "call_module":
        return None
    return _formula_of(root.get_submodule(str(node.target)))


def _formula_of(module: nn.Module) -> Callable[..., Any] | None:
    return multihead_attention if is_attention(module) else FORMULAS.get(type(module))


def _arguments(root: GraphModule, node: Node) -> dict[str, Any] | None:
    """Returns the arguments of the call by name, those given only; None if the module does not take them."""
    if node.target is F.scaled_dot_product_attention:  # a builtin
        names = list(inspect.signature(FUNCTIONS[node.target]).parameters)[1:]
        return dict(zip(names, node.args, strict=False)) | node.kwargs
    if node.op == "call_function":
        function: Any = node.target
        return dict(inspect.signature(function).bind(*node.args, **node.kwargs).arguments)
    forward = root.get_submodule(str(node.target)).forward
    try:
        return dict(inspect.signature(forward).bind(*node.args, **node.kwargs).arguments)
    except TypeError:
        return None


def _obstacle(root: GraphModule, node: Node, arguments: dict[str, Any]) -> str | None:
    """Returns why the formulas here do not cover the node; None if they do."""
    traced = [name for name in (*_SETTINGS, *_FUNCTION_SETTINGS) if isinstance(arguments.get(name), Node)]
    if traced:
        return f"its argument '{traced[0]}' depends on the data"
    if node.op == "call_function":
        return _call_obstacle(arguments)
    return _module_obstacle(root.get_submodule(str(node.target)))


def _call_obstacle(arguments: dict[str, Any]) -> str | None:
    if arguments.get("enable_gqa"):
        return "grouped queries (enable_gqa) have no formula here"
    if "num_heads" in arguments and not arguments.get("use_separate_proj_weight") and not arguments["in_proj_weight"]:
        return "it has no in_proj_weight"
    extra = [name for name in ("bias_k", "bias_v", "static_k", "static_v") if arguments.get(name) is not None]
    extra += ["add_zero_attn"] if arguments.get("add_zero_attn") else []
    return f"attention with {extra[0]} has no formula here" if extra else None


def _module_obstacle(module: nn.Module) -> str | None:
    if any(has_hooks(one) for one in module.modules() if one is not module):
        return "hooks run inside it"
    parts = [one for one in module.modules() if isinstance(one, nn.MultiheadAttention)]
    if not all(is_attention(one) for one in parts):
        return "the attention inside it has a forward of its own"
    if any(one.bias_k is not None or one.add_zero_attn for one in parts):
        return "attention with add_bias_kv or add_zero_attn has no formula here"
    stacks = (nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer)
    layers = [layer for one in module.modules() if isinstance(one, stacks[:2]) for layer in one.layers]
    if any(type(layer) not in FORMULAS for layer in layers):
        return "it is made of layers that are not torch's"
    if isinstance(module, nn.Transformer) and not {type(module.encoder), type(module.decoder)} <= FORMULAS.keys():
        return "its encoder or decoder is not torch's"
    return None


def _reads_weights(node: Node) -> bool:
    """Whether a node reads the second result of an attention; picks of the first result do not count."""
    readers = [user for user in node.users if user.users or user.op == "output"]
    return any(not is_pick(user) or user.args[1] != 0 for user in readers)
