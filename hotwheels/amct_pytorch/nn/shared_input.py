"""SharedInput: computes a quantizer's result once for all consumers of a tensor that share it (spec 8.6)."""

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
from ..torch_private import has_forward_hooks, has_global_forward_hooks, known_version, saved_tensors_hooks

OBSERVE = "observe"


class SharedInput:
    """Keeps the result that the first of ``uses`` consumers computes, until the last consumer has fetched it.

    So siblings observe a batch once and quantize it once, and the result lives no longer than the result of a separate
    graph node would. Each thread has its own results, since several threads may run one model.
    """

    def __init__(self, uses: int, producers: tuple[nn.Module, ...] | None = None) -> None:
        """Starts without a result.

        Args:
          uses: Number of consumers in the group.
          producers: The modules that make the tensor, () for a function, if only the group reads the tensor and the
            tensor is no view, so that it may be overwritten. None if it must not be overwritten.
        """
        self._uses = uses
        self._producers = producers

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedInput:
        return type(self)(self._uses, copy.deepcopy(self._producers, memo))

    def __reduce__(self) -> tuple[type[SharedInput], tuple[int, tuple[nn.Module, ...] | None]]:
        return type(self), (self._uses, self._producers)

    @property
    def is_single(self) -> bool:
        """Whether the group has a single consumer, so that no result is kept."""
        return self._uses == 1

    @property
    def may_overwrite(self) -> bool:
        """Whether the tensor may be quantized in place: it has no later reader, no gradient and no hook."""
        if self._producers is None or torch.is_grad_enabled() or has_global_forward_hooks():
            return False
        return not (self._producers and any(map(has_forward_hooks, self._producers)))

    def replace_producer(self, old: nn.Module, new: nn.Module) -> None:
        """Replaces the producer ``old`` by the module ``new``."""
        if self._producers is not None:
            self._producers = tuple(new if one is old else one for one in self._producers)

    @property
    def has_several_tensors(self) -> bool:
        """Whether the quantizer observes several tensors in one forward of the model, as one batch."""
        return False

    def observe(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Lets ``quantizer`` observe the batch ``x``, once for all consumers."""
        self.get(x, OBSERVE, quantizer.observe)

    def end_forward(self, quantizer: ActivationQuantizer, *, is_complete: bool) -> None:
        """Does nothing here; called after each forward of a model in which layers have several uses."""

    def get(self, x: Tensor, purpose: str, compute: Callable[[Tensor], Any]) -> Any:
        """Returns ``compute(x)``, computed once for all consumers of the same tensor object and ``purpose``."""
        if self.is_single:
            return compute(x)
        results = _results_of_this_thread()
        found, circumstances = results.get(self), _circumstances(purpose)
        if found is None or not found.is_of(x, circumstances):
            value = compute(x)  # the result may be ``x`` itself, changed in place, so its version is read afterwards
            found = results[self] = _Result(x, known_version(x), circumstances, value, self._uses)
        found.left -= 1
        if found.left <= 0:
            del results[self]
        return found.value


class SharedInputs(SharedInput):
    """SharedInput of a layer that is called several times: the tensors of one forward are one batch of its quantizer.

    ``uses`` is the largest number of consumers of one of the tensors.
    """

    def __init__(self, uses: int, producers: tuple[nn.Module, ...] | None = None) -> None:
        super().__init__(uses, producers)
        self._parts: list[Tensor] = []

    @property
    def has_several_tensors(self) -> bool:
        """True."""
        return True

    def observe(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Keeps a copy of ``x``, once for all its consumers, until the forward ends; ``x`` may change until then."""
        self.get(x, OBSERVE, lambda tensor: self._parts.append(tensor.detach().flatten().clone()))

    def end_forward(self, quantizer: ActivationQuantizer, *, is_complete: bool) -> None:
        """Lets ``quantizer`` observe the tensors of this forward; drops them if an error has ended the forward."""
        parts, self._parts = self._parts, []
        _results_of_this_thread().pop(self, None)
        if parts and is_complete:
            quantizer.observe(torch.cat(parts))


class FollowingInput(SharedInput):
    """SharedInput of a tensor that does not determine its quantizer's grid: the tensor behind the layer does.

    Attributes:
      extremes: Smallest and largest value of the tensor in calibration; None before.
    """

    extremes: tuple[float, float] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FollowingInput:
        made = super().__deepcopy__(memo)
        assert isinstance(made, FollowingInput)
        made.extremes = self.extremes
        return made

    def observe(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Notes the extremes of ``x``; ``quantizer`` does not see ``x``."""
        if x.numel():
            low, high = (float(end) for end in x.detach().aminmax())
            known = self.extremes or (low, high)
            self.extremes = min(low, known[0]), max(high, known[1])


@dataclasses.dataclass
class _Result:
    """The result of one computation on one tensor.

    Attributes:
      source: The tensor.
      version: Its version when the result was made.
      circumstances: See `_circumstances`.
      value: The result.
      left: Number of consumers that have not fetched the result.
    """

    source: Tensor
    version: int | None
    circumstances: tuple[Any, ...]
    value: Any
    left: int

    def is_of(self, x: Tensor, circumstances: tuple[Any, ...]) -> bool:
        """Whether the result belongs to the present values of ``x``."""
        return self.source is x and self.version == known_version(x) and self.circumstances == circumstances


class _Results(threading.local):
    """The results of one thread."""

    def __init__(self) -> None:
        self.by_group: weakref.WeakKeyDictionary[SharedInput, _Result] = weakref.WeakKeyDictionary()


_results = _Results()


def _results_of_this_thread() -> weakref.WeakKeyDictionary[SharedInput, _Result]:
    return _results.by_group


def forget_results() -> None:
    """Drops results that consumers in this thread have not fetched; called after a forward, also after an error."""
    _results.by_group.clear()


def _circumstances(purpose: str) -> tuple[Any, ...]:
    """Returns everything but the tensor on which a result depends: the purpose, gradients on or off, hooks.

    A result with an autograd graph cannot be shared between parts of the model that are checkpointed separately. Such
    parts are told apart by their hooks on saved tensors.
    """
    if purpose == OBSERVE:
        return (purpose,)
    return purpose, torch.is_grad_enabled(), saved_tensors_hooks()
