"""SharedInput: lets the consumers of one tensor which share a quantizer also share its work (spec 8.6)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers.base import ActivationQuantizer
from ..torch_private import has_forward_hooks, has_global_forward_hooks, version_of


class SharedInput:
    """Keeps the result of the first of ``uses`` consumers until the last one has fetched it.

    So a sibling's batch is observed once and quantized once, and the result lives no longer than a separate graph
    node's would.
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
        self._source: Tensor | None
        self._key: tuple[int, str] | None
        self._value: Any
        self._left: int
        self._clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedInput:
        """A copy never carries a result along: it may belong to an autograd graph."""
        return type(self)(self._uses, copy.deepcopy(self._producers, memo))

    def __reduce__(self) -> tuple[type[SharedInput], tuple[int, tuple[nn.Module, ...] | None]]:
        return type(self), (self._uses, self._producers)

    @property
    def may_overwrite(self) -> bool:
        """Whether the tensor may be quantized in place: it has no later reader, no gradient and no hook."""
        if self._producers is None or torch.is_grad_enabled() or has_global_forward_hooks():
            return False
        return not any(map(has_forward_hooks, self._producers))

    @property
    def has_several_tensors(self) -> bool:
        """Whether one forward of the model brings several tensors, which are one batch together."""
        return False

    def observe(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Shows ``quantizer`` the batch ``x``, once for all consumers."""
        self.get(x, "observe", quantizer.observe)

    def end_forward(self, quantizer: ActivationQuantizer, *, is_complete: bool) -> None:
        """Is called behind each forward of a model in which layers have several uses."""

    def get(self, x: Tensor, purpose: str, compute: Callable[[Tensor], Any]) -> Any:
        """Returns ``compute(x)``, made once for all consumers of this very tensor and ``purpose``."""
        if self._source is not x or self._key != (version_of(x), purpose):
            value = compute(x)  # which may be ``x`` itself, of a new version
            self._source, self._key, self._value, self._left = x, (version_of(x), purpose), value, self._uses
        self._left -= 1
        value = self._value
        if self._left <= 0:
            self._clear()
        return value

    def _clear(self) -> None:
        self._source = None
        self._key = None
        self._value = None
        self._left = 0


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
        self.get(x, "observe", lambda tensor: self._parts.append(tensor.detach().flatten().clone()))

    def end_forward(self, quantizer: ActivationQuantizer, *, is_complete: bool) -> None:
        """Shows ``quantizer`` the tensors of this forward; drops them where an error has ended it."""
        parts, self._parts = self._parts, []
        self._clear()
        if parts and is_complete:
            quantizer.observe(torch.cat(parts))
