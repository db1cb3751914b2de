"""Evaluator: the result of a recorded call on the example, without computing the data.

1. Values that depend on the model's inputs or parameters are fake tensors: shape, type, device and memory, no data.
2. Values that depend on sizes, buffers and constants alone are computed, because models read such values.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from .....torch_private import BatchNorm, DispatchMode, FakeTensor, data_errors, fake_tensor_mode
from .....torch_torchscript import seemingly_tracing
from ....calls.fused_attention import without_fused_attention

VALUE_OF_DATA = "a value of the data decides what the forward does"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a call.

    Attributes:
      value: The returned value.
      written: The argument tensors that the call changed, as the same objects.
    """

    value: Any
    written: tuple[Tensor, ...] = ()


class Evaluator:
    """Evaluates the calls of one trace."""

    def __init__(self) -> None:
        """Makes a new fake mode, in which every real tensor has exactly one fake."""
        self._mode = fake_tensor_mode()
        self._refusals: tuple[type[Exception], ...] = (TypeError, *data_errors())
        self._written_memory: dict[int, Tensor] = {}  # real tensors, by memory, to which fake values were written
        self.is_running = False

    def fake(self, tensor: Tensor) -> Tensor:
        """Returns the fake of ``tensor``; the same one each time."""
        return tensor if isinstance(tensor, FakeTensor) else self._mode.from_tensor(tensor)

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Returns a new fake tensor of ``shape``, with the type, device and layout of ``like``."""
        layout = torch.contiguous_format
        if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        with self._mode:
            empty = torch.empty(shape, dtype=like.dtype, device=like.device)
            return empty.to(memory_format=layout) if like.dim() == 4 else empty

    def as_seen(self, value: Any) -> Any:
        """Returns ``value``, with fakes in place of real tensors whose values the graph has changed."""
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor) and self.is_written(value):
            return self.fake(value)
        return value

    def is_written(self, tensor: Tensor) -> bool:
        """Whether a recorded call has changed the memory of the real ``tensor``, so that its values are not known."""
        return bool(self._written_memory) and _memory(tensor) in self._written_memory

    def note_written(self, tensor: Tensor) -> None:
        """Notes that a recorded call changes the real ``tensor``."""
        self._written_memory[_memory(tensor)] = tensor

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], is_fake: bool = False
    ) -> Result:
        """Returns the result of ``function(*args, **kwargs)``; errors of the function are raised too.

        The result is fake if an argument is fake, or if ``is_fake``.

        Raises:
          TraceError: The call reads a value of the data.
        """
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_fake = is_fake or any(isinstance(one, FakeTensor) for one in tensors)
        watched = [(one, self.fake(one) if is_fake else one) for one in tensors]
        versions = [seen._version for _, seen in watched]
        value = self._run(function, args, kwargs, is_fake)
        written = tuple(
            given for (given, seen), before in zip(watched, versions, strict=True) if seen._version != before
        )
        for one in written:
            if is_fake and not isinstance(one, FakeTensor):
                self.note_written(one)
        return Result(value, written)

    def call_on_stand_ins(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
        """Returns fakes for the results of an opaque function that reads values, which here runs on random data.

        Such a function is one node, which runs in every call. The graph around it needs the shapes of its results, and
        uses the shapes that random values of the same shapes give.
        """
        with self._running():
            fakes = {id(one): one for one in leaves((args, kwargs)) if isinstance(one, FakeTensor)}
            stand_ins = {key: _random_like(fake) for key, fake in fakes.items()}
            versions = {key: one._version for key, one in stand_ins.items()}
            values, named = map_leaves((args, kwargs), lambda one: stand_ins.get(id(one), one))
            result = self._run_once(function, values, named, is_fake=False)
            given = {id(one): fakes[key] for key, one in stand_ins.items()}
            written = tuple(fakes[key] for key, one in stand_ins.items() if one._version != versions[key])
            return Result(map_leaves(result, lambda one: given.get(id(one), self._fake_of(one))), written)

    def _fake_of(self, value: Any) -> Any:
        return self.fake(value) if isinstance(value, Tensor) else value

    def _run(self, function: Callable[..., Any], args: Any, kwargs: Any, is_fake: bool) -> Any:
        try:
            return self._run_once(function, *self._all_fake(args, kwargs, is_fake), is_fake=is_fake)
        except self._refusals as error:
            # A tensor without dimensions is used as a number: a size that was computed with tensors.
            numbers = map_leaves((args, kwargs), _as_number)
            if any(one is not other for one, other in zip(leaves(numbers), leaves((args, kwargs)), strict=True)):
                return self._run_once(function, *self._all_fake(numbers[0], numbers[1], is_fake), is_fake=is_fake)
            if isinstance(error, TypeError):
                raise
            raise TraceError(f"{VALUE_OF_DATA} ({_reason(error)})") from error

    def _all_fake(self, args: Any, kwargs: Any, is_fake: bool) -> tuple[Any, Any]:
        """Returns the arguments; if ``is_fake``, with fakes for all real tensors, since the call may write to them."""
        return (map_leaves(args, self._fake_of), map_leaves(kwargs, self._fake_of)) if is_fake else (args, kwargs)

    def _run_once(self, function: Callable[..., Any], args: Any, kwargs: Any, is_fake: bool) -> Any:
        mode = self._mode if is_fake else contextlib.nullcontext()
        buffers = self._fake_buffers(function, is_fake) if isinstance(function, nn.Module) else contextlib.nullcontext()
        # Not as an inference tensor, which does not count its changes, whatever the forward has asked for.
        plain = (torch.inference_mode(False), torch.no_grad(), without_fused_attention(), seemingly_tracing(False))
        with self._running(), contextlib.ExitStack() as stack:
            for context in (*plain, mode, buffers):
                stack.enter_context(context)
            if is_fake and (function is F.batch_norm or isinstance(function, BatchNorm)):
                stack.enter_context(_NormsBySize())  # type: ignore[no-untyped-call]
            return function(*args, **kwargs)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        before, self.is_running = self.is_running, True
        try:
            yield
        finally:
            self.is_running = before

    @contextlib.contextmanager
    def _fake_buffers(self, module: nn.Module, is_fake: bool) -> Iterator[None]:
        """Returns a context in which ``module`` has fake buffers: it would update running statistics in a fake mode."""
        saved = [(one, one._buffers) for one in module.modules() if one._buffers]
        for one, buffers in saved:
            copies = {name: self._stand_in(value, is_fake) for name, value in buffers.items()}
            vars(one)["_buffers"] = copies
        try:
            yield
        finally:
            for one, buffers in saved:
                vars(one)["_buffers"] = buffers

    def _stand_in(self, buffer: Tensor | None, is_fake: bool) -> Tensor | None:
        if buffer is None:
            return None
        return self.fake(buffer) if is_fake else buffer.clone()


class _NormsBySize(DispatchMode):  # type: ignore[no-untyped-call]
    """Returns the result of a BatchNorm by its size; torch computes it on fake tensors with a dozen operations."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.ops.aten.native_batch_norm.default or not isinstance(args[0], FakeTensor):
            return function(*args, **(kwargs or {}))
        x, is_training = args[0], args[5]
        statistics = x.new_empty(x.shape[1] if is_training else 0)
        return torch.empty_like(x), statistics, statistics


def leaves(value: Any) -> Iterator[Any]:
    """Yields the leaves of ``value``, of nested tuples, lists, dicts and slices."""
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """Returns a copy of ``value`` with ``function`` applied to its `leaves`; named tuples keep their class."""
    if isinstance(value, (tuple, list)):
        parts = [map_leaves(one, function) for one in value]
        if isinstance(value, torch.Size):
            return tuple(parts)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: map_leaves(one, function) for key, one in value.items()}
    if isinstance(value, slice):
        return slice(*(function(one) for one in (value.start, value.stop, value.step)))
    return function(value)


def _reason(error: BaseException) -> str:
    """Returns what needs the data; torch's errors have the name of the kernel only, ``aten.nonzero.default``."""
    home, name, *_ = (*str(error).split("."), "")
    return (
        f"the result of '{name.strip('_')}' has a size or a value that depends on data"
        if home == "aten"
        else str(error)
    )


def _as_number(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and not isinstance(value, FakeTensor) and not value.dim()
    return value.item() if is_number else value


def _random_like(fake: FakeTensor) -> Tensor:
    shape = tuple(fake.shape)
    if fake.is_floating_point() or fake.is_complex():
        return torch.rand(shape, dtype=fake.dtype, device=fake.device)
    return torch.ones(shape, dtype=fake.dtype, device=fake.device)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
