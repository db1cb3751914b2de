"""ModuleHooks: the forward hooks and pre-hooks of a module, which run around a call that takes its place."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import BackwardHook

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class ModuleHooks:
    """The forward hooks and pre-hooks of one module, to be run around another call in their order."""

    def __init__(self, module: nn.Module, kept: Collection[Any] = (), *, removes: bool = True) -> None:
        """Reads the hooks of ``module`` and, if it ``removes`` them, removes all but those in ``kept``."""
        self.module = module
        collect = functools.partial(_taken, kept=kept) if removes else _present
        self._before = collect(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
        self._after = collect(module._forward_hooks, module._forward_hooks_with_kwargs)

    def around(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the result of ``call(*args, **kwargs)`` with the hooks before and behind it, as in the module."""
        for hook, takes_kwargs in self._before:
            if takes_kwargs:
                args, kwargs = self.run(hook, args, kwargs) or (args, kwargs)
            elif (changed := self.run(hook, args)) is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = call(*args, **kwargs)
        for hook, takes_kwargs in self._after:
            changed = self.run(hook, *((args, kwargs) if takes_kwargs else (args,)), result)
            result = result if changed is None else changed
        return result

    def run(self, hook: Callable[..., Any], *given: Any) -> Any:
        """Returns the result of ``hook``."""
        return hook(self.module, *given)


def with_hooks_of(
    modules: Sequence[nn.Module], call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Returns the result of ``call(*args, **kwargs)``, which computes ``modules``, one after another, without them.

    The forward hooks, pre-hooks and full backward hooks of the first module run around the call, those of the others
    around its result.
    """
    if not any(map(is_hooked, modules)):
        return call(*args, **kwargs)
    for module in modules:
        args, kwargs, call = (_with_hooks(module, call, args, kwargs),), {}, _unchanged
    return args[0] if modules else call(*args, **kwargs)


def _unchanged(x: Any) -> Any:
    return x


def _with_hooks(module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    backward = _backward_hook_of(module)
    if backward is None and not has_hooks(module):
        return call(*args, **kwargs)

    def run(*given: Any, **named: Any) -> Any:
        return call(*(given if backward is None else backward.setup_input_hook(given)), **named)

    result = ModuleHooks(module, removes=False).around(run, args, kwargs)
    return result if backward is None else backward.setup_output_hook(result)


def without_hooks(module: nn.Module) -> nn.Module:
    """Returns ``module`` if it has no forward hooks, else a shallow copy of it without them."""
    if not has_hooks(module):
        return module
    twin = copy.copy(module)
    twin._forward_hooks, twin._forward_pre_hooks = OrderedDict(), OrderedDict()
    return twin


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run before or after the forward of ``module``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks run before or after the forward or the backward of ``module``."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _backward_hook_of(module: nn.Module) -> Any:
    """Returns the object that runs the full backward hooks of ``module`` around a call; None if it has none."""
    hooks, before = [*module._backward_hooks.values()], [*module._backward_pre_hooks.values()]
    if not (hooks or before) or module._is_full_backward_hook is False:
        return None
    make: Callable[..., Any] = BackwardHook
    return make(module, hooks, before)


def _taken(hooks: dict[int, Any], with_kwargs: dict[int, bool], kept: Collection[Any]) -> list[tuple[Any, bool]]:
    """Removes and returns the hooks that are not ``kept``, and for each whether it takes keyword arguments."""
    found = []
    for key, hook in list(hooks.items()):
        if not any(hook is one for one in kept):
            found.append((hook, with_kwargs.pop(key, False)))
            del hooks[key]
    return found


def _present(hooks: dict[int, Any], with_kwargs: dict[int, bool]) -> list[tuple[Any, bool]]:
    """Returns the hooks, and for each whether it takes keyword arguments."""
    return [(hook, with_kwargs.get(key, False)) for key, hook in hooks.items()]
