"""Finds nodes of a traced graph that return their tensor unchanged, as far as the graph shows it."""

from __future__ import annotations

from torch import Tensor, fx

from ....nn.call import MethodCall
from ...calls.no_ops import is_copy
from ...real_quant.known import is_known
from .called import callable_of

_CUTTING = frozenset({"detach", "data"})  # no gradient passes through these
_ROUNDING = frozenset({"half", "bfloat16"})
_RESHAPES = frozenset({"reshape", "view", "flatten", "squeeze", "expand"})
_SHAPE_METHODS = frozenset({"size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "layout"})
_LIKE = frozenset({"reshape_as", "view_as", "expand_as", "type_as"})


def handed_on_nodes(graph_module: fx.GraphModule) -> dict[str, str]:
    """Returns, by name of a node that certainly returns its tensor unchanged, the node that makes the tensor.

    Values are not known here: a conversion counts unless it names an integer type; shapes are not compared.
    """
    found: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        if hands_on(graph_module, node):
            source = node.args[0]
            found[node.name] = found.get(source.name, source.name)
    return found


def hands_on(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` certainly returns its first argument unchanged."""
    if not node.op.startswith("call") or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    function = callable_of(graph_module, node)
    if function == MethodCall("contiguous") or _keeps_known_shape(function, node):
        return True
    return is_known(function) and is_copy(function, node.args, node.kwargs)


def changes_nothing(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` returns its first argument unchanged in evaluation, and passes its gradient in training."""
    name = str(node.args[1]) if node.target is getattr else str(getattr(node.target, "__name__", node.target))
    return hands_on(graph_module, node) and name not in _CUTTING | _ROUNDING


def reads_shape_only(reader: fx.Node, node: fx.Node) -> bool:
    """Whether ``reader`` only reads shape and type of the result of ``node``."""
    if reader.target is getattr:
        return reader.args[1] in _SHAPE_ATTRIBUTES
    if reader.op != "call_method":
        return False
    return reader.target in _SHAPE_METHODS or (reader.target in _LIKE and reader.args[0] is not node)


def _keeps_known_shape(function: object, node: fx.Node) -> bool:
    """Whether ``node`` is a reshape to the shape that the tensor already has; False if shapes are not known."""
    before, after = node.args[0].meta.get("val"), node.meta.get("val")  # type: ignore[union-attr]
    is_reshape = getattr(function, "name", getattr(function, "__name__", "")) in _RESHAPES
    return is_reshape and isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape
