"""Replaced modules of a quantized model: the layers compute with the new module, or the replacement is refused.

Scripts replace modules of an already quantized model: SyncBatchNorm.convert_sync_batchnorm, a new head, LoRA. Layers
have references to the modules that they compute with, so these references must be updated.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from ...errors import UnsupportedModelError
from ...nn.norm_chain import BatchNormStage
from ...nn.quantized_layer import QuantizedLayer
from ...torch_private import is_sharded
from ..layers.layer_container import LayerContainer, Standing

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NO_SHARDS = (
    "A quantized model cannot be sharded (FullyShardedDataParallel, fully_shard): the ends of ranges are scalar"
    " parameters, which cannot be shards; as ignored parameters they would learn other values in each process. Use"
    " DistributedDataParallel."
)
_FORWARD = "forward"  # the dynamic path sets it on the instance


def note_standing(model: nn.Module, layers: LayerContainer, paths: dict[str, str]) -> None:
    """Stores the modules that layers compute with; ``paths`` has the path of each in ``model``, and its layer."""
    modules = {path: model.get_submodule(path) for path in paths}
    layers._standing = {
        path: Standing(module, type(module), paths[path], _FORWARD in vars(module)) for path, module in modules.items()
    }


def follow_modules(model: nn.Module, layers: LayerContainer) -> None:
    """Makes the layers compute with the present modules of ``model``.

    Raises:
      UnsupportedModelError: A module of a layer was replaced, and it is no BatchNorm replaced by a similar BatchNorm;
        or FullyShardedDataParallel or fully_shard has sharded the model or a module of a layer.
    """
    if is_sharded(model) or any(is_sharded(one.module) for one in layers._standing.values()):
        raise UnsupportedModelError(_NO_SHARDS)
    for path, standing in layers._standing.items():
        present = _standing_at(model, path)
        if present is not standing.module:
            _replace(layers, path, standing, present)
            standing.module = present


def refuse_new_forwards(layers: LayerContainer) -> None:
    """Refuses modules that were given a forward of their own since the model was quantized; layers would not call it.

    Raises:
      UnsupportedModelError: There is such a module.
    """
    for path, standing in layers._standing.items():
        if _FORWARD in vars(standing.module) and not standing.has_forward:
            msg = (
                f"Module '{path}' of the quantized model was given another forward. Layer '{standing.layer}' computes"
                " without the forward of the module, so the new one would never run. Set a hook on the module"
                " (register_forward_hook), or change the float model before it is quantized."
            )
            raise UnsupportedModelError(msg)


@contextlib.contextmanager
def with_noted_classes(model: nn.Module, layers: LayerContainer) -> Iterator[None]:
    """Returns a context in which replaced BatchNorms have the classes with which ``model`` was quantized."""
    with contextlib.ExitStack() as stack:
        for path, standing in layers._standing.items():
            if not isinstance(standing.module, standing.cls):  # a parametrized module is one of a derived class
                twin = standing.cls.__new__(standing.cls)
                vars(twin).update(vars(standing.module))  # the same parameters and buffers
                parent, _, name = path.rpartition(".")
                modules = model.get_submodule(parent)._modules
                stack.callback(modules.__setitem__, name, standing.module)
                modules[name] = twin
        yield


def _standing_at(model: nn.Module, path: str) -> Any:
    """Returns the module at ``path``, also inside wrappers that forward attributes; None if there is none."""
    found: Any = model
    for name in path.split("."):
        found = child_of(found, name)
    return found


def child_of(module: Any, name: str) -> Any:
    """Returns the attribute ``name`` of a module, None if there is none; children are found without torch's getattr."""
    children = getattr(module, "_modules", None)
    child = children.get(name) if children else None
    return getattr(module, name, None) if child is None else child


def _replace(layers: LayerContainer, path: str, standing: Standing, new: Any) -> None:
    old = standing.module
    if not _is_same_batch_norm(old, new):
        msg = (
            f"Module '{path}' of the quantized model was replaced: {_described(old)} by {_described(new)}. Layer"
            f" '{standing.layer}' is quantized with the old module. Replace modules (heads, LoRA, frozen BatchNorms) in"
            " the float model, before it is quantized; afterwards only a BatchNorm may become a SyncBatchNorm, or"
            " vice versa. To freeze the BatchNorms of a quantized model, call freeze_batch_norm."
        )
        raise UnsupportedModelError(msg)
    forward = vars(old).pop(_FORWARD, None)
    if forward is not None:
        vars(new)[_FORWARD] = forward
        _redirect(forward, old, new)
    for layer in (one for one in layers.children() if isinstance(one, QuantizedLayer)):
        if layer.call.function is old:
            layer.call = dataclasses.replace(layer.call, function=new)
        _redirect(layer.call.function, old, new)
        for stage in _stages_of(layer):
            _redirect(stage, old, new)
        layer.replace_producer(old, new)


def _redirect(holder: Any, old: nn.Module, new: nn.Module) -> None:
    """Replaces ``old`` by ``new`` in ``holder`` and in its forwards."""
    if holder is None or isinstance(holder, nn.Module):
        return
    if getattr(holder, "module", None) is old:
        holder.module = new
    for name in ("original", "_forward"):
        _redirect(getattr(holder, name, None), old, new)


def _stages_of(layer: QuantizedLayer) -> list[BatchNormStage]:
    if layer.weighted is None:
        return []
    chains = (layer.weighted.op.front, layer.weighted.op.behind)
    stages = [stage for chain in chains if chain is not None for stage in chain.stages]
    return [stage for stage in stages if isinstance(stage, BatchNormStage)]


def _is_same_batch_norm(old: nn.Module, new: Any) -> bool:
    if type(old) not in _BATCH_NORMS or type(new) not in _BATCH_NORMS:
        return False
    same = ("num_features", "eps", "affine", "track_running_stats")
    return all(getattr(old, name) == getattr(new, name) for name in same)


def _described(module: Any) -> str:
    is_leaf = isinstance(module, nn.Module) and not module._modules
    return str(module) if is_leaf else type(module).__name__
