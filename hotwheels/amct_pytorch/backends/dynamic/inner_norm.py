"""A BatchNorm inside the forward of a user.

1. A subclass that calls ``F.batch_norm``, then perhaps an activation;
2. a frozen BatchNorm, whose forward computes the same from buffers with the names of a BatchNorm's.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...torch_private import BatchNorm
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


class FrozenNorm(InnerNorm):
    """What a frozen BatchNorm computes, with the buffers of ``owner``; its mode is always that of evaluation."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__(owner)
        vars(self).update(
            training=False, eps=_eps(owner), momentum=0.0, num_features=len(owner.get_buffer("running_var"))
        )


class FrozenForward(Replacement):
    """Calls the module ``inner`` instead of the original forward of a frozen BatchNorm.

    Attributes:
      inner: The `FrozenNorm`.
    """

    def __init__(self, original: OriginalForward) -> None:
        super().__init__(original)
        self.inner = FrozenNorm(original.module)

    def __call__(self, x: Tensor) -> Tensor:
        """Runs ``inner``."""
        result: Tensor = self.inner(x)
        return result


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


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a BatchNorm2d of buffers that computes the same in both modes, judged by running a copy."""
    buffers = dict(module.named_buffers(recurse=False))
    has_more = any(True for _ in module.parameters()) or any(True for _ in module.children())
    if isinstance(module, BatchNorm) or has_more or not buffers.keys() >= _STATE:
        return False
    shapes = {buffers[name].shape for name in _STATE}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        return False
    generator = torch.Generator().manual_seed(0)
    copied = copy.deepcopy(module).double().cpu()
    values = [copied.get_buffer(name) for name in NAMES[1:5]]
    for value in values:
        value.copy_(torch.rand(value.shape, generator=generator) + 1e-4)
    x = torch.randn(2, len(values[0]), 3, 2, generator=generator, dtype=torch.float64)
    mean, var, weight, bias = values
    expected = F.batch_norm(x, mean, var, weight, bias, training=False, eps=_eps(module))
    try:
        found = [copied.train(is_training)(x) for is_training in (False, True)]
    except Exception:  # the user's forward may raise anything; then it is another operation
        return False
    return all(isinstance(one, Tensor) and one.shape == x.shape and torch.allclose(one, expected) for one in found)


def _eps(module: nn.Module) -> float:
    eps = getattr(module, "eps", _EPS)
    return eps if isinstance(eps, float) else _EPS


_STATE = frozenset(NAMES[1:5])
_EPS = 1e-5  # torch's default, which frozen BatchNorms without a setting have
