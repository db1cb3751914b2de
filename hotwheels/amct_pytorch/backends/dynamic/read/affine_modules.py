"""Finds modules that compute ``x * factor + shift`` for each channel: layer scales, Affine, gains (spec 6.7)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ....nn.module_hooks import has_hooks
from ....nn.norm_chain import ProbedStage
from ....ops.registry import Registry
from ....torch_private import BatchNorm, Dropout
from ...layers.channel_axis import ChannelAxis
from ...user_model.model_state import run_example, unchanged
from ..forwards import FORWARD

_MOST = 4  # tensors of a module that may be one
_LARGEST = 5  # size of the axes without channels there
_SIZES = (1.0, 1e-3, 1e4)  # of the inputs on which a module is tried


@dataclasses.dataclass(frozen=True)
class AffineModule:
    """Where the channels of a module ``x * factor + shift`` are.

    Attributes:
      module: The module.
      axis: The axis of its channels.
      channels: Their number, 1 for one factor for all.
      is_factor: Whether there is no shift, whatever the values of the parameters.
    """

    module: nn.Module
    axis: ChannelAxis
    channels: int
    is_factor: bool

    @property
    def probe_shape(self) -> tuple[int, ...]:
        """Shape of the smallest input with all channels."""
        shape = [1] * (self.axis.rank or 1)
        shape[self.axis.index] = self.channels
        return tuple(shape)

    def is_along(self, axis: ChannelAxis, channels: int) -> bool:
        """Whether the channels of data with this ``axis`` are those of the module."""
        return axis.rank == self.axis.rank and (self.channels == 1 or (axis, channels) == (self.axis, self.channels))


def find_affine_modules(model: nn.Module, inputs: tuple[Any, ...], registry: Registry) -> dict[str, AffineModule]:
    """Returns, by path, the modules of ``model`` that compute an affine function for each channel, as copies show.

    The shapes are those of a run of ``model`` on ``inputs``; ``model`` is not changed.
    """
    modules = {path: module for path, module in model.named_modules() if path and _may_be_one(module, registry)}
    if not modules:
        return {}
    shapes: dict[nn.Module, set[tuple[int, ...]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        shape = tuple(args[0].shape) if len(args) == 1 and isinstance(args[0], Tensor) else ()
        shapes.setdefault(module, set()).add(shape)

    handles = [module.register_forward_pre_hook(note) for module in modules.values()]
    try:
        with unchanged(model):
            run_example(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {path: _affine(module, shapes.get(module, set())) for path, module in modules.items()}
    return {path: one for path, one in found.items() if one is not None}


def _may_be_one(module: nn.Module, registry: Registry) -> bool:
    if isinstance(module, (BatchNorm, Dropout)) or registry.match_module(type(module)) is not None:
        return False
    if FORWARD in vars(module) or has_hooks(module) or module._modules:
        return False
    return 0 < sum(value.numel() > 0 for value in (*module.parameters(), *module.buffers())) <= _MOST


def _affine(module: nn.Module, shapes: set[tuple[int, ...]]) -> AffineModule | None:
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1 or not min(ranks):
        return None
    rank = ranks.pop()
    sizes = {value.numel() for value in (*module.parameters(), *module.buffers())} - {1}
    if len(sizes) > 1:
        return None
    channels = sizes.pop() if sizes else 1
    indices = [at - rank for at in range(1, rank) if all(shape[at] == channels for shape in shapes)]
    for index in indices if channels > 1 else [-1]:
        shape = next(iter(shapes))
        found = _affine_along(module, shape, ChannelAxis(index, rank), channels)
        if found is not None:
            return found
    return None


@torch.no_grad()
def _affine_along(module: nn.Module, shape: tuple[int, ...], axis: ChannelAxis, channels: int) -> AffineModule | None:
    """Returns ``module`` as an affine function along ``axis``; None if a copy with random values computes another."""
    generator = torch.Generator().manual_seed(0)
    try:
        copied = copy.deepcopy(module).cpu().double()
        state = [value for value in (*copied.parameters(), *copied.buffers()) if value.is_floating_point()]
        for value in state:
            value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5)
        before = [value.clone() for value in state]
        affine = AffineModule(module, axis, channels, is_factor=False)
        ProbedStage(
            module, module, affine.probe_shape, channels
        ).factor()  # it takes float64 with the parameters as they are
        stage = ProbedStage(copied, copied, affine.probe_shape, channels)
        factor, shift = stage.factor().reshape(affine.probe_shape), stage.shifted(None).reshape(affine.probe_shape)
        for x, expected in _trials(shape, factor, shift, generator):
            for is_training in (False, True):
                result = copied.train(is_training)(x.clone())
                if not isinstance(result, Tensor) or result.shape != x.shape:
                    return None
                if not torch.allclose(result, expected, rtol=1e-9, atol=1e-12):
                    return None
    except Exception:  # the user's forward may raise anything; then it is another operation
        return None
    if any(not torch.equal(old, new) for old, new in zip(before, state, strict=True)):
        return None
    return dataclasses.replace(affine, is_factor=not shift.any())


def _trials(
    shape: tuple[int, ...], factor: Tensor, shift: Tensor, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    small = tuple(size if one > 1 else min(size, _LARGEST) for size, one in zip(shape, factor.shape, strict=True))
    for size in _SIZES:
        x = torch.randn(small, generator=generator, dtype=torch.float64) * size
        yield x, x * factor + shift
