"""``F.batch_norm`` with the statistics of the model, as a BatchNorm module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .computed_tensor import ComputedTensor, Tree


class BatchNormCall(nn.BatchNorm2d):
    """A call of ``F.batch_norm`` as a BatchNorm module, so that it is folded and updated like other BatchNorms.

    The module has no state of its own: statistics, weight and bias are looked up in the model each time they are read.
    Its training flag takes the place of the function's ``training`` argument.

    Attributes:
      sources: Compute ``running_mean`` and ``running_var``, and ``weight`` and ``bias`` if the call has them.
      counter: Path of the buffer that counts the batches of training; None if there is none.
      is_frozen: Whether the call uses the running statistics in training too.
    """

    amct_leaf = True

    def __init__(
        self,
        sources: dict[str, ComputedTensor],
        momentum: float,
        eps: float,
        counter: str | None = None,
        is_frozen: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # BatchNorm2d.__init__ would make parameters
        self.sources = sources
        self.counter = counter
        self.is_frozen = is_frozen
        twin = nn.BatchNorm2d(sources["running_mean"]().numel(), eps, momentum, device=torch.device("meta"))
        vars(self).update({name: value for name, value in vars(twin).items() if name not in vars(self)})
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def tree(self) -> Tree:
        """The model in which the statistics are looked up."""
        return self.sources["running_mean"].tree

    @property
    def running_mean(self) -> Tensor:  # type: ignore[override]
        """[C]."""
        return self.sources["running_mean"]()

    @property
    def running_var(self) -> Tensor:  # type: ignore[override]
        """[C]."""
        return self.sources["running_var"]()

    @property
    def weight(self) -> Tensor | None:  # type: ignore[override]
        """[C], differentiable; None means ones."""
        return self.sources["weight"]() if "weight" in self.sources else None

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """[C], differentiable; None means zeros."""
        return self.sources["bias"]() if "bias" in self.sources else None

    def train(self, mode: bool = True) -> BatchNormCall:
        """Sets the training flag, which stays off if the call is frozen."""
        super().train(mode and not self.is_frozen)
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Calls the function."""
        if self.training and self.counter is not None:
            self.tree.find(self.counter).add_(1)
        mean, var = self._kept or (self.running_mean, self.running_var)
        return F.batch_norm(input, mean, var, self.weight, self.bias, self.training, self.momentum or 0.0, self.eps)

    def in_double(self, input: Tensor) -> Tensor:
        """Calls the function in float64 on the float32 values of statistics, weight and bias; changes no statistics."""
        mean, var, weight, bias = (
            None if one is None else one.double()
            for one in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        eps = torch.tensor(self.eps, dtype=torch.float32).item()  # as the exported file holds it
        return F.batch_norm(input.double(), mean, var, weight, bias, self.training, 0.0, eps)

    @contextlib.contextmanager
    def keeping(self, is_kept: Tensor) -> Iterator[None]:
        """Returns a context in which the running statistics of the channels ``is_kept``, bool [C], do not change."""
        statistics = (self.running_mean, self.running_var)
        copies = (statistics[0].clone(), statistics[1].clone())
        self._kept = copies
        try:
            yield
            for one, changed in zip(statistics, copies, strict=True):
                one.copy_(torch.where(is_kept, one, changed))
        finally:
            self._kept = None

    def frozen(self) -> nn.BatchNorm2d:
        """Returns a module with parameters and buffers of its own, for a file."""
        values = {name: source().detach().clone() for name, source in self.sources.items()}
        made = _PlainBatchNorm(self.num_features, self.eps, self.momentum, affine="weight" in values)
        made.load_state_dict(values, strict=False)
        return made.eval()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Saves nothing, since the model saves the tensors under its own names."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads nothing, since the model loads the tensors under its own names."""


class _PlainBatchNorm(nn.BatchNorm2d):
    """Takes inputs of any number of dimensions, as the function does."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass
