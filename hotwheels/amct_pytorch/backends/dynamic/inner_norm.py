"""A BatchNorm inside the forward of a user: a subclass that calls ``F.batch_norm``, then perhaps an activation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .forwards import OriginalForward, Replacement
from .inner_call import CallOf

FUNCTION = F.batch_norm
NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class InnerNorm(nn.BatchNorm2d):
    """The call of ``F.batch_norm`` in the forward of ``owner``, as a module that shares all state with the owner.

    The module does not count batches, since the forward of the owner does.
    """

    def __init__(self, owner: nn.Module) -> None:
        nn.Module.__init__(self)  # BatchNorm2d.__init__ would make parameters
        own = vars(self)
        own.update(_owner=owner, _parameters=owner._parameters, _buffers=owner._buffers)
        del own["training"]

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the owner that this module lacks: the training flag, ``eps``, ``momentum``."""
        own = vars(self)
        for holder in ("_parameters", "_buffers"):
            if name in own.get(holder, {}):
                return own[holder][name]
        if "_owner" not in own:  # while it is copied
            raise AttributeError(name)
        return getattr(own["_owner"], name)

    def forward(self, input: Tensor) -> Tensor:
        """Calls the function."""
        momentum = 0.0 if self.momentum is None else self.momentum
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(input, *statistics, self.weight, self.bias, self.training, momentum, self.eps)


class CallingNorm(Replacement):
    """Runs the original forward, with its call of ``F.batch_norm`` replaced by the module ``inner``.

    Attributes:
      inner: The `InnerNorm`.
    """

    def __init__(self, original: OriginalForward) -> None:
        super().__init__(original)
        self.inner = InnerNorm(original.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        with CallOf(FUNCTION, NAMES, lambda call: self.inner(call["input"])):
            return self.original(*args, **kwargs)


def is_own(module: nn.Module, call: dict[str, Any]) -> bool:
    """Whether ``call`` of ``F.batch_norm`` uses the parameters and running statistics of ``module``."""
    names = ("running_mean", "running_var", "weight", "bias")
    is_of_module = all(call.get(name) is getattr(module, name) for name in names)
    return is_of_module and not call.get("training", False) and call.get("eps", 1e-5) == module.eps
