"""SharedInput: lets the consumers of one tensor which share a quantizer also share its work (spec 8.6)."""

from __future__ import annotations

import copy
import dataclasses
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers.base import ActivationQuantizer
from ..torch_private import has_forward_hooks, has_global_forward_hooks, saved_tensors_hooks, version_of

OBSERVE = "observe"


class SharedInput:
    """Lets the first of ``uses`` consumers work for all of them, until the last one has fetched the result.

    So a sibling's batch is observed once and quantized once, and the result lives no longer than a separate graph
    node's would. The results belong to the thread that made them: several threads may run one model.
    """

    def __init__(self, uses: int, producers: tuple[nn.Module, ...] | None = None) -> None:
        """Makes one for ``uses`` consumers.

        Args:
          uses: Number of inputs in the group.
          producers: If only the group reads the tensor and the tensor is no view: the modules that make it,
            none for a function. None if the tensor must be left as it is.
        """
        self._uses = uses
        self._producers = producers

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedInput:
        return type(self)(self._uses, copy.deepcopy(self._producers, memo))

    def __reduce__(self) -> tuple[type[SharedInput], tuple[int, tuple[nn.Module, ...] | None]]:
        return type(self), (self._uses, self._producers)

    @property
    def may_overwrite(self) -> bool:
        """Whether the tensor may be quantized in place: it has no later reader, no gradient and no hook."""
        if self._producers is None or torch.is_grad_enabled() or has_global_forward_hooks():
            return False
        return not any(map(has_forward_hooks, self._producers))

    def replace_producer(self, old: nn.Module, new: nn.Module) -> None:
        """Notes that ``new`` stands in place of ``old`` in the model."""
        if self._producers is not None:
            self._producers = tuple(new if one is old else one for one in self._producers)

    @property
    def has_several_tensors(self) -> bool:
        """Whether one forward of the model brings several tensors, which are one batch together."""
        return False

    def observe(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Shows ``quantizer`` the batch ``x``, once for all consumers."""
        self.get(x, OBSERVE, quantizer.observe)

    def end_forward(self, quantizer: ActivationQuantizer, *, is_complete: bool) -> None:
        """Is called behind each forward of a model in which layers have several uses."""

    def get(self, x: Tensor, purpose: str, compute: Callable[[Tensor], Any]) -> Any:
        """Returns ``compute(x)``, made once for all consumers of this very tensor and ``purpose``."""
        if self._uses == 1:
            return compute(x)
        results = _results_of_this_thread()
        found, circumstances = results.get(self), _circumstances(purpose)
        if found is None or not found.is_of(x, circumstances):
            value = compute(x)  # which may be ``x`` itself, of a new version
            found = results[self] = _Result(x, _version(x), circumstances, value, self._uses)
        found.left -= 1
        if found.left <= 0:
            del results[self]
        return found.value


class SharedInputs(SharedInput):
    """The same for a layer that is called several times: the tensors of one forward are one batch of its quantizer.

    ``uses`` is the largest number of consumers which one of the tensors has.
    """

    def __init__(self, uses: int, producers: tuple[nn.Module, ...] | None = None) -> None:
        super().__init__(uses, producers)
        self._parts: list[Tensor] = []

    @property
    def has_several_tensors(self) -> bool:
        """True."""
        return True

    def observe(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Keeps a copy of ``x``, once for all its consumers, until the forward ends: ``x`` may change until then."""
        self.get(x, OBSERVE, lambda tensor: self._parts.append(tensor.detach().flatten().clone()))

    def end_forward(self, quantizer: ActivationQuantizer, *, is_complete: bool) -> None:
        """Shows ``quantizer`` the tensors of this forward; drops them where an error has ended it."""
        parts, self._parts = self._parts, []
        _results_of_this_thread().pop(self, None)
        if parts and is_complete:
            quantizer.observe(torch.cat(parts))


@dataclasses.dataclass
class _Result:
    """What was made of one tensor.

    Attributes:
      source: The tensor.
      version: Its version when the result was made.
      circumstances: See `_circumstances`.
      value: The result.
      left: How many consumers have not fetched it.
    """

    source: Tensor
    version: int | None
    circumstances: tuple[Any, ...]
    value: Any
    left: int

    def is_of(self, x: Tensor, circumstances: tuple[Any, ...]) -> bool:
        """Whether the result is that of ``x`` as it is now."""
        return self.source is x and self.version == _version(x) and self.circumstances == circumstances


class _Results(threading.local):
    """The results of one thread."""

    def __init__(self) -> None:
        self.by_group: weakref.WeakKeyDictionary[SharedInput, _Result] = weakref.WeakKeyDictionary()


_results = _Results()


def _results_of_this_thread() -> weakref.WeakKeyDictionary[SharedInput, _Result]:
    return _results.by_group


def forget_results() -> None:
    """Drops what consumers of this thread have not fetched: a forward is over, perhaps by an error."""
    _results.by_group.clear()


def _circumstances(purpose: str) -> tuple[Any, ...]:
    """What a result depends on beside its tensor.

    A result with a graph is of use only where that graph is: a part of the model that is checkpointed makes its own.
    Each checkpoint has hooks of its own for the tensors that are saved.
    """
    if purpose == OBSERVE:
        return (purpose,)
    return purpose, torch.is_grad_enabled(), saved_tensors_hooks()


def _version(x: Tensor) -> int | None:
    """The number of changes in place; None for a tensor of inference mode, which counts none."""
    return None if x.is_inference() else version_of(x)
