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
from ..inner_line import NOT_TAKEN, InnerLine, Line, LineCalls, LinesForward, tensors_of
from .candidates import outermost
from .line_modules import LineModule

_FACTORS = (operator.mul, operator.truediv)
_Seen = dict[nn.Module, dict[Line, set[tuple[int, ...]]]]


def find_inner_lines(
    model: nn.Module, inputs: tuple[Any, ...], registry: Registry, closed: Collection[str]
) -> tuple[dict[str, LinesForward], dict[str, LineModule]]:
    """Returns, by path, the forwards with factors and shifts inside, and these as modules by the paths of the tensors.

    Left out are operations in the forward of ``model`` itself, of the modules at the paths ``closed``, and of known
    modules.
    """
    paths = {module: path for path, module in outermost(model, registry) if _is_open(module, registry)}
    holders = [module for module in paths if any(True for _ in _own_tensors(module))]
    if not holders:
        return {}, {}
    forwards: dict[str, LinesForward] = {}
    lines: dict[str, LineModule] = {}
    for owner, seen in _seen(model, inputs, holders).items():
        if owner not in paths or paths[owner] in closed:
            continue
        found = [one for line, shapes in seen.items() if (one := _line_module(line, shapes)) is not None]
        for one in found:
            lines[free_name(_path(model, one.module), lines)] = one
        if found:
            forwards[paths[owner]] = LinesForward(OriginalForward(owner), [one.module for one in found])  # type: ignore[misc]
    return forwards, lines


def _path(model: nn.Module, inner: Any) -> str:
    holder = next(path for path, module in model.named_modules() if module is inner.line.holder)
    return f"{holder}.{inner.line.name}" if holder else str(inner.line.name)


def _line_module(line: Line, shapes: set[tuple[int, ...]]) -> LineModule | None:
    """Returns ``line`` on data of these ``shapes`` as a module; None if it is no line of channels on the same axis."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1 or (line.function is operator.truediv and line.is_first):
        return None
    rank = ranks.pop()
    wide = [(index - len(line.shape), size) for index, size in enumerate(line.shape) if size != 1]
    if len(line.shape) > rank or len(wide) > 1:
        return None
    index, channels = wide[0] if wide else (-1, 1)
    if channels > 1 and any(shape[index] != channels for shape in shapes):
        return None
    return LineModule(InnerLine(line), ChannelAxis(index, rank), channels, line.function in _FACTORS)


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

    def take(line: Line, x: Tensor) -> Any:
        seen.setdefault(running[-1], {}).setdefault(line, set()).add(tuple(x.shape))
        return NOT_TAKEN

    tensors = tensors_of(holders)
    with unchanged(model), _followed(model, running), LineCalls(tensors, take):
        before = {tensor: known_version(tensor) for tensor in tensors}
        run_example(model, inputs)
        written = {tensors[tensor] for tensor, version in before.items() if known_version(tensor) != version}
    owners: dict[Line, int] = {}
    for lines in seen.values():
        for line in lines:
            owners[line] = owners.get(line, 0) + 1
    return {
        owner: {
            line: shapes
            for line, shapes in lines.items()
            if owners[line] == 1 and (line.holder, line.name) not in written
        }
        for owner, lines in seen.items()
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
