"""HookedForward: the forward of a whole model together with the hooks on that model.

Sessions and the exporter put forwards of their own in the place of the model's. The hooks belong to what they replace:
a pre-hook wants the arguments that the user passes, a hook the result that the user's forward returns.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from .forwards import OriginalForward, replace_forward


class HookedForward(OriginalForward):
    """Runs pre-hooks, the forward and hooks, as calling the module does while it has them."""

    def __init__(self, module: nn.Module) -> None:
        """Takes the hooks over from ``module``, which has none afterwards."""
        super().__init__(module)
        self._before = _taken(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
        self._after = _taken(module._forward_hooks, module._forward_hooks_with_kwargs)
        module._forward_hooks_always_called.clear()

    @property
    def __signature__(self) -> inspect.Signature:
        """The arguments of the forward."""
        return inspect.signature(self._own or type(self.module).forward.__get__(self.module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs them."""
        for hook, takes_kwargs in self._before:
            if takes_kwargs:
                args, kwargs = hook(self.module, args, kwargs) or (args, kwargs)
            elif (changed := hook(self.module, args)) is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = super().__call__(*args, **kwargs)
        for hook, takes_kwargs in self._after:
            given = (args, kwargs) if takes_kwargs else (args,)
            changed = hook(self.module, *given, result)
            result = result if changed is None else changed
        return result


def take_root_hooks(model: nn.Module) -> None:
    """Makes the hooks on ``model``, a copy, part of its forward; without effect if it has none."""
    if model._forward_hooks or model._forward_pre_hooks:
        replace_forward(model, HookedForward(model))


def _taken(hooks: dict[int, Any], with_kwargs: dict[int, bool]) -> list[tuple[Any, bool]]:
    """Returns the hooks, and of each whether it takes keyword arguments; empties both dicts."""
    found = [(hook, key in with_kwargs) for key, hook in hooks.items()]
    hooks.clear()
    with_kwargs.clear()
    return found
