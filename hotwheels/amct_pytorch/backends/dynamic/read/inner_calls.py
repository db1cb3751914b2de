"""Finds the modules whose forward calls one convolution or linear function, and makes layers of these calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ....log import get_logger
from ....nn.in_projection import InProjection
from ....ops.desc import Role
from ....ops.registry import Registry
from ...user_model.model_state import run_example, unchanged
from ..forwards import FORWARD, OriginalForward, Replacement, replace_forward
from ..inner_call import CalledWith, CallingForward, CallOf, call_of, make_inner, run_call
from ..inner_norm import FUNCTION, NAMES, CallingNorm, FrozenForward, is_frozen_norm, is_own
from .candidates import is_plain_class

_log = get_logger(__name__)
_ROLES = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR})


def find_inner_calls(model: nn.Module, inputs: tuple[Any, ...], registry: Registry) -> dict[str, CallingForward]:
    """Returns, by path, a forward with a layer inside for each module of ``model`` that needs one; changes nothing.

    A module is left out, with a WARNING, if its forward does not call its operation exactly once, or calls it with a
    weight that depends on the data.
    """
    modules = {path: module for path, module in model.named_modules() if path and _needs_one(module, registry)}
    if not modules:
        return {}
    seen = _run(model, inputs, {path: _Seen(module, _operation(module, registry)) for path, module in modules.items()})
    found = {}
    for path, one in seen.items():
        reason = one.why_not()
        if reason is None:
            called = one.called()
            found[path] = CallingForward(make_inner(called, one.forwards[0][0]), called)
        elif one.forwards:
            _log.warning("Layer '%s' is not quantized: %s.", path, reason)
    return found


def find_inner_norms(model: nn.Module, inputs: tuple[Any, ...], registry: Registry) -> dict[str, CallingNorm]:
    """Returns, by path, a forward with a BatchNorm inside for each BatchNorm subclass that calls it exactly once."""
    modules = {path: module for path, module in model.named_modules() if path and _is_own_norm(module, registry)}
    if not modules:
        return {}
    seen = {path: _SeenNorm(module) for path, module in modules.items()}
    with unchanged(model), _seeing(seen):
        run_example(model, inputs)
    return {path: CallingNorm(one.original) for path, one in seen.items() if one.is_one_norm}


def find_frozen_norms(model: nn.Module) -> dict[str, FrozenForward]:
    """Returns, by path, a forward with a BatchNorm inside for each frozen BatchNorm, such as torchvision's."""
    found = [(path, module) for path, module in model.named_modules() if path and is_frozen_norm(module)]
    return {path: FrozenForward(OriginalForward(module)) for path, module in found}


class _SeenNorm:
    """A forward that records whether it calls ``F.batch_norm`` exactly once, with the state of its module."""

    def __init__(self, module: nn.Module) -> None:
        self.original = OriginalForward(module)
        self._forwards: list[list[bool]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        calls: list[bool] = []
        self._forwards.append(calls)

        def take(call: dict[str, Any]) -> Any:
            calls.append(is_own(self.original.module, call))
            return FUNCTION(**call)

        with CallOf(FUNCTION, NAMES, take):
            return self.original(*args, **kwargs)

    @property
    def is_one_norm(self) -> bool:
        """Whether every forward was one such call."""
        return bool(self._forwards) and all(calls == [True] for calls in self._forwards)


class _Seen:
    """A forward that records the arguments with which it calls its operation.

    Attributes:
      forwards: The calls of each run of the forward.
    """

    def __init__(self, module: nn.Module, operation: str) -> None:
        self.original = OriginalForward(module)
        self.forwards: list[list[dict[str, Any]]] = []
        self._operation = operation
        self._example: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        calls: list[dict[str, Any]] = []
        self.forwards.append(calls)
        self._example = args, kwargs

        def take(call: dict[str, Any]) -> Any:
            calls.append({name: value for name, value in call.items() if name != "input"})
            return run_call(self._operation, call)

        with call_of(self._operation, take):
            return self.original(*args, **kwargs)

    def called(self) -> CalledWith:
        """Returns the weight and bias of the call."""
        return CalledWith(self.original, self._operation, *self._example)

    @torch.no_grad()
    def why_not(self) -> str | None:
        """Returns why the call cannot become a layer; None if it can."""
        counts = {len(calls) for calls in self.forwards}
        if counts != {1}:
            return f"its forward calls the operation {' or '.join(map(str, sorted(counts)))} times, not once"
        first, *others = (calls[0] for calls in self.forwards)
        if any(_settings(one) != _settings(first) for one in others):
            return "its forward calls the operation with settings that depend on the data"
        try:
            weight, bias = self.called().tensors()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            return f"its forward cannot be run on zeros, which is needed to get the computed weight: {error}"
        if not all(_is_same(one["weight"], weight) and _is_same(one.get("bias"), bias) for one in (first, *others)):
            return "the weight with which its forward calls the operation depends on the data"
        return None


def _settings(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name not in ("weight", "bias")}


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _needs_one(module: nn.Module, registry: Registry) -> bool:
    """Whether ``module`` is a convolution or Linear whose forward is changed or whose weight is computed."""
    match = registry.match_module(type(module))
    if match is None or match.op.role not in _ROLES or registry.is_leaf_type(type(module)):
        return False
    if isinstance(vars(module).get(FORWARD), Replacement):
        return False
    has_own_forward = FORWARD in vars(module) or not is_plain_class(type(module), registry)
    return has_own_forward or ("weight" not in module._parameters and not isinstance(module, InProjection))


def _is_own_norm(module: nn.Module, registry: Registry) -> bool:
    """Whether ``module`` is a subclass of BatchNorm with a forward of its own."""
    has_own_forward = FORWARD in vars(module) or not is_plain_class(type(module), registry)
    return registry.is_fusable(type(module)) and has_own_forward


def _operation(module: nn.Module, registry: Registry) -> str:
    match = registry.match_module(type(module))
    assert match is not None
    return match.op.name


def _run(model: nn.Module, inputs: tuple[Any, ...], seen: Mapping[str, _Seen]) -> Mapping[str, _Seen]:
    with unchanged(model), _seeing(seen):
        run_example(model, inputs)
    return seen


@contextlib.contextmanager
def _seeing(seen: Mapping[str, _Seen | _SeenNorm]) -> Iterator[None]:
    try:
        for one in seen.values():
            replace_forward(one.original.module, one)
        yield
    finally:
        for one in seen.values():
            one.original.restore()
