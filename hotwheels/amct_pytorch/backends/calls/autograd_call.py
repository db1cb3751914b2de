"""AutogradCall: the application of a user's torch.autograd.Function as a module, which can be copied and saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class AutogradCall(nn.Module):
    """Applies ``function``: an operation that is not quantized and not traced.

    Attributes:
      function: The subclass of torch.autograd.Function.
    """

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Applies the function."""
        apply: Callable[..., Any] = self.function.apply
        return apply(*args, **kwargs)

    def extra_repr(self) -> str:
        """Returns the name of the class."""
        return self.function.__qualname__
