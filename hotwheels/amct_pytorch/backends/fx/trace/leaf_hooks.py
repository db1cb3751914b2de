"""Hooks on modules that are one node: they are traced in front of and behind that node (spec 8.1).

The forward of such a module is not traced, and a quantized layer runs the operation without calling the module. So the
graph calls a copy of the module without hooks (a twin), and the operations of the hooks are part of the graph. Hooks
that compute a weight stay on the module (`weight_hooks`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

from torch import nn
from torch.fx import GraphModule

from ....errors import UnsupportedModelError
from ....nn.module_hooks import ModuleHooks
from ...user_model.weight_hooks import tensor_hooks

_DICTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


class LeafHooks(ModuleHooks):
    """The hooks of one module that is a node."""

    def __init__(self, module: nn.Module, path: str) -> None:
        """Removes the hooks from ``module``, whose name is ``path``, except those that compute its tensors."""
        super().__init__(module, tensor_hooks(module))
        self._path = path

    def run(self, hook: Callable[..., Any], *given: Any) -> Any:
        """Returns the result of ``hook`` on traced values.

        Raises:
          UnsupportedModelError: The hook cannot be traced.
        """
        try:
            return super().run(hook, *given)
        except Exception as error:  # the user's hook may raise any error on a Proxy
            msg = (
                f"The hook {getattr(hook, '__qualname__', type(hook).__name__)} on '{self._path}'"
                f" ({type(self.module).__name__}) cannot be traced ({type(error).__name__}: {error}). Remove the hook"
                " for quantization, or do its work in a forward."
            )
            raise UnsupportedModelError(msg) from error


def take_leaf_hooks(root: nn.Module, leaves: Collection[nn.Module]) -> dict[nn.Module, LeafHooks]:
    """Removes and returns the hooks of the modules of ``root`` that are nodes (``leaves``), not of modules inside."""
    hooked: dict[nn.Module, LeafHooks] = {}
    inside: set[nn.Module] = set()
    for path, module in root.named_modules():
        if module in leaves and module not in inside:
            inside.update(module.modules())
            if len(module._forward_hooks) + len(module._forward_pre_hooks) > len(tensor_hooks(module)):
                hooked[module] = LeafHooks(module, path)
    return hooked


def call_twins(graph_module: GraphModule, hooked: Collection[nn.Module]) -> None:
    """Makes ``graph_module`` call twins of the modules ``hooked``, in place; these will get their hooks back."""
    twins = {module: _twin(module) for module in hooked}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            path, _, name = str(node.target).rpartition(".")
            owner = graph_module.get_submodule(path)
            child = owner.get_submodule(name)
            owner._modules[name] = twins.get(child, child)


def _twin(module: nn.Module) -> nn.Module:
    """Returns a module with the same parameters, buffers and settings, and the present hooks of ``module``."""
    twin = copy.copy(module)
    for name in _DICTS:
        vars(twin)[name] = copy.copy(vars(twin)[name])
    return twin
