"""Makes the SharedInputs of a plan: which inputs share a result, and which tensors may be quantized in place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from torch import fx, nn

from ....nn.call import MethodCall
from ....nn.shared_input import FollowingInput, SharedInput
from ....ops.registry import Registry
from ....plan.quant_plan import QuantPlan
from ....torch_private import pytree
from ...real_quant.known import op_of
from .called import callable_of
from .no_op_nodes import reads_shape_only


def share_inputs(traced: fx.GraphModule, plan: QuantPlan, registry: Registry) -> dict[str, SharedInput]:
    """Returns the SharedInput of each group of ``plan``; called before the layers are placed."""
    producers = {one.group: one.edge.producer for layer in plan.layers.values() for one in layer.inputs}
    reads: dict[str, Counter[str]] = defaultdict(Counter)  # for each group, the number of inputs of each layer in it
    for layer in plan.layers.values():
        for one in layer.inputs:
            reads[one.group][layer.name] += 1
    nodes = {node.name: node for node in traced.graph.nodes}
    return {
        group: (FollowingInput if group in plan.following else SharedInput)(
            found.total(), _producers(traced, nodes[producers[group]], found, registry)
        )
        for group, found in reads.items()
    }


def _producers(
    traced: fx.GraphModule, node: fx.Node, reads: Mapping[str, int], registry: Registry
) -> tuple[nn.Module, ...] | None:
    """Returns the modules that compute ``node`` if its result is no view and has no other reader; else None.

    Readers of sizes do not count. Behind an nn.Identity the same holds for the tensor that it returns.
    """
    passed: list[nn.Module] = []
    while _is_identity(traced, node):
        if _has_other_readers(node, reads):
            return None
        passed, reads, node = [*passed, *_modules(traced, node)], {node.name: 1}, node.all_input_nodes[0]
    if not node.op.startswith("call") or not _is_out_of_place(traced, node):
        return None
    op = op_of(callable_of(traced, node), registry)
    if op is None or not op.makes_new_tensor:
        return None
    if _has_other_readers(node, reads):
        return None
    return tuple(dict.fromkeys((*passed, *_modules(traced, node))))


def _is_identity(traced: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and type(callable_of(traced, node)) is nn.Identity


def _has_other_readers(node: fx.Node, reads: Mapping[str, int]) -> bool:
    readers = [user for user in node.users if not reads_shape_only(user, node)]
    return any(_occurrences(user, node) != reads.get(user.name, 0) for user in readers)


def _is_out_of_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` does not return its input's memory, as in-place operations that were not rewritten do."""
    function = callable_of(traced, node)
    name = function.name if isinstance(function, MethodCall) else getattr(function, "__name__", "")
    return not (name.endswith("_") or node.kwargs.get("inplace") or getattr(function, "inplace", False))


def _occurrences(user: fx.Node, node: fx.Node) -> int:
    return sum(leaf is node for leaf in pytree.tree_leaves((user.args, user.kwargs)))


def _modules(traced: fx.GraphModule, node: fx.Node) -> list[nn.Module]:
    """Returns the called module, and for a folded BatchNorm also the convolution in front of it."""
    calls = [one for one in (node, *node.all_input_nodes) if one.op == "call_module"]
    return [traced.get_submodule(str(one.target)) for one in calls]
