"""NormChain: the normalizations and factors per channel on one side of a weight, which are folded into it (spec 6.7).

With constant statistics each of them is ``y = x * factor + shift`` for each channel, and so is their chain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.batch_norm import channel_factor, fold_bias, inverse_factor
from ..core.channels import per_channel
from .batch_norm_call import BatchNormCall


class Stage(Protocol):
    """One normalization, factor or shift of a chain."""

    @property
    def is_training(self) -> bool:
        """Whether the result now depends on more than factor and shift: on statistics of the batch, or on dropout."""

    def factor(self) -> Tensor | None:
        """Returns the factor of each channel, [C] or [1], differentiable; None means 1."""

    def inverse(self) -> Tensor | None:
        """Returns ``1 / factor``, 0 where the factor is 0; None means 1."""

    def shifted(self, bias: Tensor | None) -> Tensor | None:
        """Returns ``bias * factor + shift``, [C]; a bias of None counts as 0. None without bias and shift."""

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Returns the result for ``x``; a [C] tensor reshaped to ``channel_shape`` broadcasts against ``x``."""


class BatchNormStage:
    """A BatchNorm, of any class with the attributes of torch's BatchNorm."""

    def __init__(self, module: nn.Module, forward: Callable[[Tensor], Tensor] | None = None) -> None:
        """``forward`` calls ``module`` if ``module(x)`` would call the layer it is folded into; else None."""
        self.module: Any = module
        self._forward = forward

    @property
    def is_training(self) -> bool:
        """Whether the BatchNorm now normalizes with the statistics of the batch."""
        return bool(self.module.training)

    def factor(self) -> Tensor:
        """Returns ``gamma / sqrt(var + eps)``, [C]."""
        return channel_factor(self.module.running_var, self._gamma(), self.module.eps)

    def inverse(self) -> Tensor:
        """Returns ``sqrt(var + eps) / gamma``, [C], 0 where gamma is 0."""
        return inverse_factor(self.module.running_var, self._gamma(), self.module.eps)

    def shifted(self, bias: Tensor | None) -> Tensor:
        """Returns ``(bias - mean) * factor + beta``, [C]."""
        norm = self.module
        beta = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
        return fold_bias(bias, norm.running_mean, self.factor(), beta)

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Returns the BatchNorm of ``x``, whose channels are the last axis if ``channel_shape`` is (-1,)."""
        normalize = self._forward or self.module
        axis = -len(channel_shape)
        has_ranks = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,)}
        ranks = next((has_ranks[cls] for cls in type(self.module).__mro__ if cls in has_ranks), (x.dim(),))
        if x.dim() + axis == 1 and (x.dim() in ranks or isinstance(self.module, BatchNormCall)):
            return normalize(x)
        rows = x.movedim(axis, -1)
        channels = rows.flatten(0, -2)
        result = normalize(channels[..., None, None] if ranks == (4,) else channels)
        return result.reshape(rows.shape).movedim(-1, axis)

    @contextlib.contextmanager
    def keeping(self, is_kept: Tensor) -> Iterator[None]:
        """Returns a context in which the running statistics of the channels ``is_kept``, bool [C], do not change."""
        norm = self.module
        if isinstance(norm, BatchNormCall):
            with norm.keeping(is_kept):
                yield
            return
        statistics = {name: norm._buffers[name] for name in ("running_mean", "running_var")}
        # The BatchNorm updates copies, because its backward needs the updated tensors unchanged.
        norm._buffers.update({name: value.clone() for name, value in statistics.items()})
        try:
            yield
            for name, value in statistics.items():
                value.copy_(torch.where(is_kept, value, norm._buffers[name]))
        finally:
            norm._buffers.update(statistics)

    def _gamma(self) -> Tensor:
        gamma = self.module.weight
        return torch.ones_like(self.module.running_var) if gamma is None else gamma


class FactorStage:
    """A product with, or a quotient by, a constant per channel."""

    is_training = False

    def __init__(self, values: Callable[[], Tensor], is_quotient: bool = False) -> None:
        """``values`` has one element, or one for each channel."""
        self._values = values
        self._is_quotient = is_quotient

    def factor(self) -> Tensor:
        """Returns the factor, [C] or [1]."""
        values = self._values().flatten()
        return 1 / values if self._is_quotient else values

    def inverse(self) -> Tensor:
        """Returns ``1 / factor``, 0 where the factor is 0."""
        factor = self.factor()
        return torch.where(factor == 0, 0.0, 1 / torch.where(factor == 0, 1.0, factor))

    def shifted(self, bias: Tensor | None) -> Tensor | None:
        """Returns ``bias * factor``."""
        return None if bias is None else bias * self.factor()

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Returns the product."""
        values = self._values().reshape(channel_shape)
        return x / values if self._is_quotient else x * values


class ShiftStage:
    """A sum with, or a difference from, a constant per channel; also ``constant - x``."""

    is_training = False

    def __init__(
        self, values: Callable[[], Tensor], channels: int, is_subtracted: bool = False, negates: bool = False
    ) -> None:
        """``values`` has one element, or one per channel. ``is_subtracted``: x - values; ``negates``: values - x."""
        self._values = values
        self._channels = channels
        self._is_subtracted = is_subtracted
        self._negates = negates

    def factor(self) -> Tensor | None:
        """Returns -1 if the data is subtracted, else None."""
        return -torch.ones_like(self._values().flatten()[:1]) if self._negates else None

    def inverse(self) -> Tensor | None:
        """Returns -1 if the data is subtracted, else None."""
        return self.factor()

    def shifted(self, bias: Tensor | None) -> Tensor:
        """Returns the bias after the addition or subtraction, [C]."""
        shift = self._values().flatten().expand(self._channels)
        shift = -shift if self._is_subtracted else shift
        if bias is None:
            return shift
        return shift - bias if self._negates else bias + shift

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Returns the sum."""
        values = self._values().reshape(channel_shape)
        if self._negates:
            return values - x
        return x - values if self._is_subtracted else x + values


class NumberStage:
    """A sum, difference, product or quotient with a Python number."""

    is_training = False

    def __init__(
        self, module: nn.Module, run: Callable[[Tensor], Tensor], channels: int, factor: float = 1, shift: float = 0
    ) -> None:
        """``run`` computes ``x * factor + shift`` as the model does; ``module`` is the layer with the weight."""
        self._module: Any = module
        self._run = run
        self._channels = channels
        self._factor = factor
        self._shift = shift

    def factor(self) -> Tensor:
        """Returns the factor, [1]."""
        factor: Tensor = self._module.weight.new_full((1,), self._factor)
        return factor

    def inverse(self) -> Tensor:
        """Returns ``1 / factor``, 0 where the factor is 0."""
        return torch.zeros_like(self.factor()) if self._factor == 0 else 1 / self.factor()

    def shifted(self, bias: Tensor | None) -> Tensor | None:
        """Returns ``bias * factor + shift``."""
        if bias is not None:
            return bias * self._factor + self._shift
        shift: Tensor = self._module.weight.new_full((self._channels,), self._shift)
        return shift if self._shift else None

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Returns the result of the operation."""
        return self._run(x)


class PassStage:
    """A call that returns its input in evaluation: an Identity, a copy, a dropout."""

    def __init__(self, function: Callable[[Tensor], Tensor], forward: Callable[[Tensor], Tensor] | None = None) -> None:
        """``function`` is called only while this or another member of the chain trains; see `BatchNormStage`."""
        self._function = function
        self._forward = forward

    @property
    def is_training(self) -> bool:
        """Whether the call is a dropout that is active now."""
        return bool(getattr(self._function, "training", False) and getattr(self._function, "p", 0))

    def factor(self) -> None:
        """Returns None."""

    def inverse(self) -> None:
        """Returns None."""

    def shifted(self, bias: Tensor | None) -> Tensor | None:
        """Returns ``bias``."""
        return bias

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Calls the function."""
        return (self._forward or self._function)(x)


class ProbedStage:
    """A module that computes ``x * factor + shift`` for each channel; both are read by running it on 0 and on 1."""

    is_training = False

    def __init__(
        self, module: nn.Module, forward: Callable[[Tensor], Tensor], shape: tuple[int, ...], channels: int
    ) -> None:
        """``forward`` calls ``module``; ``shape`` is that of an input with all that the module tells apart."""
        self.module = module
        self._forward = forward
        self._shape = shape
        self._channels = channels

    def factor(self) -> Tensor:
        """Returns the factor, [C] or [1]."""
        return (self._at(1.0) - self._at(0.0)).to(self._value().dtype)

    def inverse(self) -> Tensor:
        """Returns ``1 / factor``, 0 where the factor is 0."""
        factor = self.factor()
        return torch.where(factor == 0, 0.0, 1 / torch.where(factor == 0, 1.0, factor))

    def shifted(self, bias: Tensor | None) -> Tensor:
        """Returns ``bias * factor + shift``."""
        shift = self._at(0.0).to(self._value().dtype).expand(self._channels)
        return shift if bias is None else bias * self.factor() + shift

    def run(self, x: Tensor, channel_shape: tuple[int, ...]) -> Tensor:
        """Calls the module."""
        return self._forward(x)

    def _value(self) -> Tensor:
        return next(value for value in (*self.module.parameters(), *self.module.buffers()) if value.is_floating_point())

    def _at(self, x: float) -> Tensor:
        """Returns the result for ``x`` in each channel, in float64, since a shift is subtracted from it."""
        probe = torch.full(self._shape, x, dtype=torch.float64, device=self._value().device)
        return self._forward(probe).flatten()


class NormChain:
    """The members of a chain, in the order of the data."""

    def __init__(self, stages: Sequence[Stage], channels: int, channel_shape: tuple[int, ...]) -> None:
        """``channels`` is C; values [C] in ``channel_shape`` broadcast against the data."""
        self.stages = tuple(stages)
        self._channels = channels
        self._channel_shape = channel_shape

    @property
    def is_training(self) -> bool:
        """Whether the result for a batch is not ``x * factor + shift`` now."""
        return any(stage.is_training for stage in self.stages)

    def factor(self) -> Tensor | None:
        """Returns the factor of the chain for each channel, [C], differentiable; None means 1."""
        return self._product([stage.factor() for stage in self.stages])

    def inverse(self) -> Tensor | None:
        """Returns ``1 / factor``, 0 where the factor is 0; None means 1."""
        return self._product([stage.inverse() for stage in self.stages])

    def shifted(self, bias: Tensor | None) -> Tensor | None:
        """Returns ``bias * factor + shift``, [C]; None if there is neither a bias nor a shift."""
        for stage in self.stages:
            bias = stage.shifted(bias)
        return bias

    def run(self, x: Tensor) -> Tensor:
        """Returns the result for ``x``; a BatchNorm in training normalizes with the statistics of the batch."""
        for stage in self.stages:
            x = stage.run(x, self._channel_shape)
        return x

    @contextlib.contextmanager
    def keeping(self, is_kept: Tensor) -> Iterator[None]:
        """Returns a context in which the running statistics of the channels ``is_kept``, bool [C], do not change."""
        with contextlib.ExitStack() as stack:
            for stage in self.stages:
                if isinstance(stage, BatchNormStage):
                    stack.enter_context(stage.keeping(is_kept))
            yield

    def _product(self, factors: list[Tensor | None]) -> Tensor | None:
        total: Tensor | None = None
        for factor in factors:
            if factor is not None:
                total = factor if total is None else total * factor
        return None if total is None else total.expand(self._channels)


def times_outputs(weight: Tensor, factor: Tensor | None) -> Tensor:
    """Returns ``weight`` [C_out, ...] times ``factor`` [C_out]; ``weight`` itself if ``factor`` is None."""
    return weight if factor is None else weight * per_channel(factor, weight)
