"""HookedForward: the forward of a whole model together with the hooks on that model.

Sessions and the exporter replace the model's forward. The hooks must run around the user's forward, not around the
replacement: a pre-hook gets the arguments that the user passes, a hook the result of the user's forward.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ...nn.module_hooks import ModuleHooks, has_hooks
from .forwards import OriginalForward, replace_forward


class HookedForward(OriginalForward):
    """Runs pre-hooks, the forward and hooks, as calling the module does while it has them."""

    def __init__(self, module: nn.Module) -> None:
        """Moves the hooks from ``module`` to this object."""
        super().__init__(module)
        self._hooks = ModuleHooks(module)

    @property
    def __signature__(self) -> inspect.Signature:
        """The arguments of the forward."""
        return inspect.signature(self._own or type(self.module).forward.__get__(self.module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs pre-hooks, forward and hooks."""
        return self._hooks.around(super().__call__, args, kwargs)


def take_root_hooks(model: nn.Module) -> None:
    """Makes the hooks on ``model``, a copy, part of its forward; no effect if it has no hooks."""
    if has_hooks(model):
        replace_forward(model, HookedForward(model))
