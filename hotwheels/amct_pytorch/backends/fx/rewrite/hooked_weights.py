"""Computes weights when they are read, instead of in a forward pre-hook.

torch's older ``weight_norm``, ``spectral_norm`` and ``prune`` keep parameters of other names, and a hook stores the
weight on the module before each forward. A layer does not call that forward, so it would read an outdated weight.
"""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule

from ....errors import UnsupportedModelError
from ....nn.computed_tensor import ComputedTensor, Ref, Step, Tree
from ...user_model.weight_hooks import hooked_weight, tensor_hooks, tensor_of
from .weighted_calls import call_kind, place_call


def place_hooked_weights(graph_module: GraphModule) -> None:
    """Makes nodes that call a module with such a hook call a module with computed weight; names and types are kept.

    Raises:
      UnsupportedModelError: A hook computes another tensor of such a module.
    """
    tree = Tree(graph_module)
    for node in graph_module.graph.nodes:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is None or call_kind(module) is None or not tensor_hooks(module):
            continue
        path = str(node.target)
        _refuse_others(path, module)
        weight = ComputedTensor(path, tree, (Step(path), Step(hooked_weight, True, (Ref(0),))))
        bias = None if module.bias is None else ComputedTensor(f"{path}.bias", tree, (Step(f"{path}.bias"),))
        place_call(graph_module, node, module, weight, bias)


def _refuse_others(path: str, module: nn.Module) -> None:
    for hook in tensor_hooks(module):
        if tensor_of(hook) != "weight":
            raise UnsupportedModelError(
                f"The hook {type(hook).__name__} on '{path}' ({type(module).__name__}) computes its"
                f" '{tensor_of(hook)}', and only a computed 'weight' is followed. Make the tensor a parameter first, as"
                " torch.nn.utils.prune.remove does."
            )
