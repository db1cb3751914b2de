"""Makes GraphModules that keep all parameters and buffers of the model, whether the graph uses them or not."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from ....torch_private import unsaved_buffers
from ..traced_module import TracedModule


def assemble(root: nn.Module, graph: Graph, class_name: str) -> GraphModule:
    """Returns a GraphModule of ``graph`` that shares modules, parameters and buffers with ``root``.

    A stock GraphModule drops the state its graph does not read and makes every buffer persistent; here the
    ``state_dict`` has at least the entries of ``root`` (spec 2.2), and what ``root`` does not save is not saved.
    """
    module = TracedModule(root, graph, class_name)
    _give_constants_memory(module)
    for path, value in (*_parameters(root), *_buffers(root)):
        _adopt(module, path, value)
    for path in _unsaved_buffers(root):
        owner, name = _owner(module, path)
        unsaved_buffers(owner).add(name)
    return module


def copy_training(root: nn.Module, module: GraphModule) -> None:
    """Gives ``module`` and the empty containers inside it the training flags of ``root``."""
    for path, one in module.named_modules():
        if type(one) is nn.Module or one is module:
            with contextlib.suppress(AttributeError):  # containers that only the graph has
                one.training = root.get_submodule(path).training


def _give_constants_memory(module: GraphModule) -> None:
    """Copies tensor constants of the trace that are expanded views, since a checkpoint cannot be loaded into a view."""
    for name, value in module._buffers.items():
        if name.startswith("_tensor_constant") and value is not None:
            module._buffers[name] = value.contiguous()


def _parameters(root: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(root.named_parameters(remove_duplicate=False))


def _buffers(root: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(root.named_buffers(remove_duplicate=False))


def _unsaved_buffers(root: nn.Module) -> list[str]:
    return [
        f"{path}.{name}" if path else name
        for path, module in root.named_modules(remove_duplicate=False)
        for name in unsaved_buffers(module)
    ]


def _adopt(module: GraphModule, path: str, value: torch.Tensor) -> None:
    """Registers ``value`` at ``path`` unless the graph module has it already."""
    owner, name = _owner(module, path)
    if name in owner._parameters or name in owner._buffers:
        return
    if isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    else:
        owner.register_buffer(name, value)


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Returns the module that holds ``path`` and the last name in ``path``; makes missing modules on the way."""
    *names, last = path.split(".")
    for name in names:
        if name not in module._modules:
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module, last
