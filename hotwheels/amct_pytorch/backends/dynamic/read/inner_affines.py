"""Finds factors and shifts inside users' forwards, such as ``x * self.gamma`` (spec 6.7)."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ....custom_op import CustomModuleBase
from ....onnx_io.initializers import free_name
from ....ops.registry import Registry
from ....torch_private import known_version
from ...layers.channel_axis import ChannelAxis
from ...user_model.model_state import run_example, unchanged
from ..forwards import OriginalForward
from ..inner_affine import NOT_TAKEN, Affine, AffineCalls, AffineForward, InnerAffine, tensors_of
from .affine_modules import AffineModule
from .candidates import outermost

_FACTORS = (operator.mul, operator.truediv)
_Seen = dict[nn.Module, dict[Affine, set[tuple[int, ...]]]]


def find_inner_affines(
    model: nn.Module, inputs: tuple[Any, ...], registry: Registry, closed: Collection[str]
) -> tuple[dict[str, AffineForward], dict[str, AffineModule]]:
    """Returns, by path, the forwards with factors and shifts inside, and these as modules by the paths of the tensors.

    Left out are operations in the forward of ``model`` itself, of the modules at the paths ``closed``, and of known
    modules.
    """
    paths = {module: path for path, module in outermost(model, registry) if _is_open(module, registry)}
    holders = [module for module in paths if any(True for _ in _own_tensors(module))]
    if not holders:
        return {}, {}
    forwards: dict[str, AffineForward] = {}
    affines: dict[str, AffineModule] = {}
    for owner, seen in _seen(model, inputs, holders).items():
        if owner not in paths or paths[owner] in closed:
            continue
        found = [one for affine, shapes in seen.items() if (one := _affine_module(affine, shapes)) is not None]
        for one in found:
            affines[free_name(_path(model, one.module), affines)] = one
        if found:
            forwards[paths[owner]] = AffineForward(OriginalForward(owner), [one.module for one in found])  # type: ignore[misc]
    return forwards, affines


def _path(model: nn.Module, inner: Any) -> str:
    holder = next(path for path, module in model.named_modules() if module is inner.affine.holder)
    return f"{holder}.{inner.affine.name}" if holder else str(inner.affine.name)


def _affine_module(affine: Affine, shapes: set[tuple[int, ...]]) -> AffineModule | None:
    """Returns ``affine`` on data of these ``shapes`` as a module; None if its channels have no common axis."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1 or (affine.function is operator.truediv and affine.is_first):
        return None
    rank = ranks.pop()
    wide = [(index - len(affine.shape), size) for index, size in enumerate(affine.shape) if size != 1]
    if len(affine.shape) > rank or len(wide) > 1:
        return None
    index, channels = wide[0] if wide else (-1, 1)
    if channels > 1 and any(shape[index] != channels for shape in shapes):
        return None
    return AffineModule(InnerAffine(affine), ChannelAxis(index, rank), channels, affine.function in _FACTORS)


def _is_open(module: nn.Module, registry: Registry) -> bool:
    """Whether a factor in the forward of ``module``, or a tensor of it, may be folded."""
    if isinstance(module, (CustomModuleBase, torch.jit.ScriptModule)) or registry.is_leaf_type(type(module)):
        return False
    return registry.match_module(type(module)) is None


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from (*module.parameters(recurse=False), *module.buffers(recurse=False))


def _seen(model: nn.Module, inputs: tuple[Any, ...], holders: Collection[nn.Module]) -> _Seen:
    """Runs ``model``; returns, by the module whose forward does them, the operations with the shapes of their data.

    Only operations with tensors of ``holders`` are looked for. One that several modules do is left out,
    and one with a tensor that the forward changes.
    """
    running: list[nn.Module] = [model]
    seen: _Seen = {}

    def take(affine: Affine, x: Tensor) -> Any:
        seen.setdefault(running[-1], {}).setdefault(affine, set()).add(tuple(x.shape))
        return NOT_TAKEN

    tensors = tensors_of(holders)
    with unchanged(model), _followed(model, running), AffineCalls(tensors, take):
        before = {tensor: known_version(tensor) for tensor in tensors}
        run_example(model, inputs)
        written = {tensors[tensor] for tensor, version in before.items() if known_version(tensor) != version}
    owners: dict[Affine, int] = {}
    for affines in seen.values():
        for affine in affines:
            owners[affine] = owners.get(affine, 0) + 1
    return {
        owner: {
            affine: shapes
            for affine, shapes in affines.items()
            if owners[affine] == 1 and (affine.holder, affine.name) not in written
        }
        for owner, affines in seen.items()
    }


@contextlib.contextmanager
def _followed(model: nn.Module, running: list[nn.Module]) -> Iterator[None]:
    """Keeps the modules whose forwards run now in ``running``, the innermost one last."""

    def enter(module: nn.Module, _: Any) -> None:
        running.append(module)

    def leave(*_: Any) -> None:
        running.pop()

    handles = []
    for module in (one for one in model.modules() if not isinstance(one, torch.jit.ScriptModule)):
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
