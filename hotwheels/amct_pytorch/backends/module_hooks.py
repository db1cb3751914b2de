"""ModuleHooks: forward hooks and pre-hooks that are removed from their module, so that the caller runs them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class ModuleHooks:
    """The hooks of one module; the module itself no longer runs them."""

    def __init__(self, module: nn.Module, kept: Collection[Any] = ()) -> None:
        """Removes the hooks from ``module``, except those in ``kept``."""
        self.module = module
        self._before = _taken(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, kept)
        self._after = _taken(module._forward_hooks, module._forward_hooks_with_kwargs, kept)

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


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run before or after the forward of ``module``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _taken(hooks: dict[int, Any], with_kwargs: dict[int, bool], kept: Collection[Any]) -> list[tuple[Any, bool]]:
    """Removes and returns the hooks that are not ``kept``, and for each whether it takes keyword arguments."""
    found = []
    for key, hook in list(hooks.items()):
        if not any(hook is one for one in kept):
            found.append((hook, with_kwargs.pop(key, False)))
            del hooks[key]
    return found
