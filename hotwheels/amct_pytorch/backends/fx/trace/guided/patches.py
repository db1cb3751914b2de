"""Patches of Python and torch while a guided trace runs, for functions that do not accept Proxies.

All patches are undone when the trace ends, also after an error. In other threads a patched function returns the
original result, since they have no Proxy of this trace.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils.checkpoint import CheckpointFunction

from .proxies import PROXY_TYPES, proxies_in

# torch's parser refuses a Proxy for dtype= or device=, and as the first of several sizes, before __torch_function__.
_FACTORIES = (
    *("zeros", "ones", "empty", "full", "arange", "range", "linspace", "logspace", "eye", "tensor", "as_tensor"),
    *("rand", "randn", "randint", "randperm", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like"),
    *("randn_like", "tril_indices", "triu_indices", "scalar_tensor", "empty_strided"),
)
_METHODS = (
    *("to", "type", "expand", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "sum", "mean", "softmax"),
    *("prod", "cumsum", "log_softmax"),
)
_TYPE_INFOS = ("finfo", "iinfo")


@contextlib.contextmanager
def patched(tracer: Any) -> Iterator[None]:
    """Returns a context where ``isinstance``, tensor factories and autograd functions accept Proxies of ``tracer``."""
    resolve_name(torch.add)  # fills torch's table of names now, before functions are patched
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(builtins, "isinstance", _isinstance(builtins.isinstance)))
        for name in _FACTORIES:
            stack.enter_context(_replaced(torch, name, _function(getattr(torch, name), tracer)))
        for name in _TYPE_INFOS:
            stack.enter_context(_replaced(torch, name, _type_info(getattr(torch, name))))
        for name in _METHODS:
            stack.enter_context(_replaced(Tensor, name, _method(getattr(Tensor, name), name, tracer)))
        apply = torch.autograd.Function.__dict__["apply"]
        stack.enter_context(_replaced(torch.autograd.Function, "apply", _apply(apply, tracer)))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    is_own = name in vars(owner)
    original = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)  # inherited


def _isinstance(original: Callable[..., bool]) -> Callable[..., bool]:
    """Returns an isinstance for which a Proxy is an instance of the class of its value, and of Proxy."""

    def isinstance(instance: Any, classes: Any) -> bool:
        if type(instance) not in PROXY_TYPES:
            return original(instance, classes)
        return original(instance, classes) or original(instance.amct_value, classes)

    return isinstance


def _function(original: Callable[..., Any], tracer: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if tracer.evaluator.is_running or not proxies_in((args, kwargs)):
            return original(*args, **kwargs)
        return tracer.record(original, args, kwargs)

    return function


def _method(original: Callable[..., Any], name: str, tracer: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if tracer.evaluator.is_running or not proxies_in((args, kwargs)):
            return original(self, *args, **kwargs)
        return tracer.create_proxy("call_method", name, (self, *args), kwargs)

    return method


def _type_info(original: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def type_info(dtype: Any = None) -> Any:
        """Returns the limits of a type, which are the same in every run, so no node is recorded."""
        if type(dtype) in PROXY_TYPES:
            dtype = dtype.tracer.ask("argument", dtype, dtype.amct_value)
        return original() if dtype is None else original(dtype)

    return type_info


def _apply(original: Any, tracer: Any) -> Any:
    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if tracer.evaluator.is_running or not proxies_in((args, kwargs)):
            return original.__get__(None, cls)(*args, **kwargs)
        if cls is CheckpointFunction:
            function, _, *given = args
            return function(*given)
        return tracer.record_autograd_function(cls, args, kwargs)

    return classmethod(apply)
