"""ComposedCalls: in a trace of torch's TorchScript exporter, other functions in place of those that it cannot write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...nn.smooth_resize import resize_shares
from ...torch_torchscript import is_tracing, not_tracing
from ..calls.composed_forms import Form, composed_form
from ..calls.function_names import is_in_place_name, name_of
from ..calls.pooling_windows import window_shares

_EXACT_SOFTPLUS = 15  # from this threshold on, float32 has no difference between softplus(x) and x


class ComposedCalls(TorchFunctionMode):
    """While this mode is active, a trace has the composed form of a function in place of the function."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func`` or its form."""
        kwargs = kwargs or {}
        form = _form(func) if is_tracing() and kwargs.get("out") is None else None
        result = NotImplemented if form is None else form(*args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def _form(function: Callable[..., Any]) -> Form | None:
    if is_in_place_name(getattr(function, "__name__", "")):
        return None
    return composed_form(function) or _FORMS.get(name_of(function))


def _interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if antialias:
        return _smooth(input, size, scale_factor, mode, align_corners, recompute_scale_factor)
    if mode not in ("area", "nearest-exact"):
        return NotImplemented
    with not_tracing():
        size = _plain(size)
        result = F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
        before, after = tuple(input.shape[2:]), tuple(result.shape[2:])
    if mode == "area":
        return _area_mean(input, before, after)
    for axis, extent in enumerate(before):
        with not_tracing():
            line = torch.arange(extent, dtype=torch.float32).view(1, 1, -1)
            count, factor = (one[axis] if isinstance(one, Sequence) else one for one in (size, scale_factor))
            row = F.interpolate(line, count, factor, mode, None, recompute_scale_factor)
            picks = row.view(-1).long()
        input = input.index_select(axis + 2, picks)
    return input


def _smooth(input: Tensor, size: Any, *others: Any) -> Any:
    if input.dim() != 4:
        return NotImplemented
    with not_tracing():
        rows, columns = resize_shares(tuple(input.shape[2:]), _plain(size), *others)
        columns = columns.T.contiguous()
    return rows @ (input @ columns)


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Any:
    with not_tracing():
        before = tuple(input.shape[-2:])
        after = tuple(F.adaptive_avg_pool2d(input, _plain(output_size)).shape[-2:])
    is_even = not any(have % want for have, want in zip(before, after, strict=True))
    return NotImplemented if is_even and input.dim() == 4 else _area_mean(input, before, after)


def _area_mean(input: Tensor, before: Sequence[int], after: Sequence[int]) -> Any:
    """Returns the means of the windows from ``before`` to ``after`` pixels."""
    if len(before) != 2:
        return NotImplemented
    with not_tracing():
        rows, columns = (window_shares(*sizes, input.dtype) for sizes in zip(before, after, strict=True))
        columns = columns.T.contiguous()
    return rows @ (input @ columns)


def _plain(size: Any) -> Any:
    """Returns a size as the trace passes it, a number or several, as ints."""
    if size is None or isinstance(size, (list, tuple)):
        return size if size is None else [None if one is None else int(one) for one in size]
    return int(size)


def _softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    if threshold >= _EXACT_SOFTPLUS:
        return NotImplemented
    return torch.where(input * beta > threshold, input, F.softplus(input, beta))


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Any:
    return NotImplemented if inplace else torch.where(input <= threshold, value, input)


def _permute(input: Tensor, *dims: Any) -> Tensor:
    axes = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
    return input.permute([axis % input.dim() for axis in axes])


def _squeeze(input: Tensor, dim: Any = None) -> Any:
    if not isinstance(dim, Sequence):
        return NotImplemented
    for axis in sorted((one % input.dim() for one in dim), reverse=True):
        input = input.squeeze(axis)
    return input


def _roll(input: Tensor, shifts: Any, dims: Any = ()) -> Any:
    return NotImplemented if dims != () else input.flatten().roll(shifts, 0).reshape(input.shape)


def _channel_shuffle(input: Tensor, groups: int) -> Tensor:
    channels = input.shape[1] // groups
    parts = input.reshape(input.shape[0], groups, channels, *input.shape[2:])
    return parts.transpose(1, 2).flatten(1, 2)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    *_: Any,
    **_others: Any,
) -> Any:
    if max_norm is None:
        return NotImplemented
    with not_tracing():
        weight = torch.renorm(weight.detach(), norm_type, 0, max_norm)  # in eager only the rows that a call reads
    return F.embedding(input, weight, padding_idx)


def _fmax(input: Tensor, other: Tensor) -> Tensor:
    return torch.where(torch.isnan(input), other, torch.where(torch.isnan(other), input, torch.maximum(input, other)))


def _fmin(input: Tensor, other: Tensor) -> Tensor:
    return torch.where(torch.isnan(input), other, torch.where(torch.isnan(other), input, torch.minimum(input, other)))


def _truncated(input: Tensor) -> Tensor:
    return torch.sign(input) * torch.floor(input.abs()) if input.is_floating_point() else input.clone()


# The FX path's writer has handlers for these.
def _equal(input: Any, other: Any) -> Any:
    """Returns ``input == other`` for masks and True or False, at which torch's alias analysis fails."""
    if not isinstance(input, Tensor) or input.dtype != torch.bool or not isinstance(other, bool):
        return NotImplemented
    return input.clone() if other else input.logical_not()


def _not_equal(input: Any, other: Any) -> Any:
    return _equal(input, not other) if isinstance(other, bool) else NotImplemented


_FORMS: dict[str, Form] = {
    **dict.fromkeys(("eq", "__eq__"), _equal),
    **dict.fromkeys(("ne", "__ne__"), _not_equal),
    "F.interpolate": _interpolate,
    "F.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "F.embedding": _embedding,
    "F.softplus": _softplus,
    "F.threshold": _threshold,
    "threshold": _threshold,
    "F.channel_shuffle": _channel_shuffle,
    "channel_shuffle": _channel_shuffle,
    "permute": _permute,
    "squeeze": _squeeze,
    "roll": _roll,
    "fmax": _fmax,
    "fmin": _fmin,
    "trunc": _truncated,
    "fix": _truncated,
    "frac": lambda input: input - _truncated(input),
    "addcdiv": lambda input, tensor1, tensor2, *, value=1: input + value * (tensor1 / tensor2),
}
