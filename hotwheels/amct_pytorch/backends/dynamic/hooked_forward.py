"""HookedForward: the forward of a whole model together with the hooks on that model.

Sessions and the exporter put forwards of their own in the place of the model's. The hooks belong to what they replace:
a pre-hook wants the arguments that the user passes, a hook the result that the user's forward returns.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..module_hooks import ModuleHooks, has_hooks
from .forwards import OriginalForward, replace_forward


class HookedForward(OriginalForward):
    """Runs pre-hooks, the forward and hooks, as calling the module does while it has them."""

    def __init__(self, module: nn.Module) -> None:
        """Takes the hooks over from ``module``, which has none afterwards."""
        super().__init__(module)
        self._hooks = ModuleHooks(module)

    @property
    def __signature__(self) -> inspect.Signature:
        """The arguments of the forward."""
        return inspect.signature(self._own or type(self.module).forward.__get__(self.module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs them."""
        return self._hooks.around(super().__call__, args, kwargs)


def take_root_hooks(model: nn.Module) -> None:
    """Makes the hooks on ``model``, a copy, part of its forward; without effect if it has none."""
    if has_hooks(model):
        replace_forward(model, HookedForward(model))
