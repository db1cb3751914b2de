"""A layer inside a user's forward: the single convolution or linear function that the forward calls.

Subclasses of convolutions and Linear with a forward of their own (a padding in front, a standardized
weight), a forward set on an instance, and modules whose weight is computed (parametrizations, weight_norm,
spectral_norm, pruning) all end in one call of ``F.conv2d`` or its like. `CallingForward` runs such a forward and lets a
`WeightedCall` do that call. It has ``weight`` and ``bias``, so all that is done with a Conv2d is done with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...nn.weighted_call import CALLS, WeightedCall
from ...torch_private import pytree, with_torch_function, without_function_modes
from ...torch_torchscript import is_tracing, not_tracing
from .forwards import OriginalForward, Replacement

Take = Callable[[dict[str, Any]], Any]

_CALLS = {call.function.__name__: call for call in CALLS}  # by the names of `ops.table`


class CallOf(TorchFunctionMode):
    """While this mode is active, each call of ``function`` is replaced by ``take(arguments by name)``."""

    def __init__(self, function: Callable[..., Any], names: Sequence[str], take: Take) -> None:
        """``names`` are the names of the arguments in order."""
        super().__init__()
        self._function = function
        self._names = names
        self._take = take

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        if func is not self._function:
            return func(*args, **(kwargs or {}))
        return self._take({**dict(zip(self._names, args, strict=False)), **(kwargs or {})})


def call_of(operation: str, take: Take) -> CallOf:
    """Returns a mode that passes the calls of the function of ``operation`` to ``take``."""
    kind = _CALLS[operation]
    return CallOf(kind.function, ("input", "weight", "bias", *kind.settings), take)


def run_call(operation: str, call: Mapping[str, Any]) -> Any:
    """Returns what the function of ``operation`` computes with these arguments."""
    return _CALLS[operation].function(**call)


class _Reached(Exception):
    """Ends a forward at the call, when only weight and bias of the call are needed."""

    def __init__(self, call: dict[str, Any]) -> None:
        super().__init__()
        self.call = call


class CalledWith:
    """Weight and bias with which a forward calls its operation, computed from the parameters when they are read.

    Attributes:
      original: The forward.
      operation: Name of the operation that it calls.
    """

    def __init__(
        self, original: OriginalForward, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """``args`` and ``kwargs`` are an example call; only shapes and types are kept."""
        self.original = original
        self.operation = operation
        self._example = pytree.tree_map_only(Tensor, _shape_of, (args, kwargs))
        self._present: dict[str, Any] | None = None

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Returns weight and bias; inside `during` those of the call in progress."""
        call = self._present if self._present is not None else self._computed()
        return call["weight"], call.get("bias")

    @contextlib.contextmanager
    def during(self, call: dict[str, Any]) -> Iterator[None]:
        """Returns a context in which `tensors` returns weight and bias of ``call``."""
        # In a trace the weight must become a constant, and real_quant may have converted it to float64.
        is_other = is_tracing() or call["weight"].dtype == torch.float64
        self._present = self._computed() if is_other else call
        try:
            yield
        finally:
            self._present = None

    def _computed(self) -> dict[str, Any]:
        parameter = next(self.original.module.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        args, kwargs = pytree.tree_map_only(_Shape, lambda shape: shape.zeros(device), self._example)
        try:
            with _outside(), _in_eval(self.original.module), call_of(self.operation, _stop):
                _run_hooks(self.original.module, args)
                self.original(*args, **kwargs)
        except _Reached as reached:
            return reached.call
        raise AssertionError("the forward has called its operation on the example")


class InnerSource:
    """``weight`` or ``bias`` of `CalledWith`, as a source for `WeightedCall`."""

    def __init__(self, called: CalledWith, name: str) -> None:
        self.called = called
        self._name = name

    def __call__(self) -> Tensor | None:
        """Computes it."""
        weight, bias = self.called.tensors()
        return weight if self._name == "weight" else bias


class CallingForward(Replacement):
    """Runs the original forward, with its call of the operation replaced by the module ``inner``.

    Attributes:
      inner: A `WeightedCall`.
    """

    def __init__(self, inner: WeightedCall, called: CalledWith) -> None:
        super().__init__(called.original)
        self.inner = inner
        self._called = called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        with call_of(self._called.operation, self._take):
            return self.original(*args, **kwargs)

    def _take(self, call: dict[str, Any]) -> Any:
        with self._called.during(call):
            return self.inner(call["input"])


def make_inner(called: CalledWith, call: Mapping[str, Any]) -> WeightedCall:
    """Returns a `WeightedCall` that computes ``call``, the operation's call in the forward."""
    kind = _CALLS[called.operation]
    given = {name: call[name] for name in kind.settings if name in call}
    weight: Any = InnerSource(called, "weight")
    bias: Any = None if call.get("bias") is None else InnerSource(called, "bias")
    return kind(weight, bias, **given)


class _Shape:
    """The shape and type of a tensor of an example."""

    def __init__(self, x: Tensor) -> None:
        self._shape, self._dtype = tuple(x.shape), x.dtype

    def zeros(self, device: torch.device) -> Tensor:
        """Returns zeros of that shape, expanded from one element so that they need no memory."""
        return torch.zeros((), dtype=self._dtype, device=device).expand(self._shape)


def _shape_of(x: Tensor) -> _Shape:
    with not_tracing():
        return _Shape(x)


def _stop(call: dict[str, Any]) -> Any:
    raise _Reached(call)


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Returns a context in which neither a trace nor real_quant intercepts computations."""
    with without_function_modes(), not_tracing(), with_torch_function():
        yield


@contextlib.contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    """Returns a context in which reading a computed weight does not update its state, e.g. of a spectral norm."""
    flags = [(one, one.training) for one in module.modules()]
    for one, _ in flags:
        one.training = False
    try:
        yield
    finally:
        for one, flag in flags:
            one.training = flag


def _run_hooks(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Runs torch's pre-hooks that compute the weight: weight_norm, spectral_norm, pruning."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            hook(module, args)
