"""1-D operations as 2-D operations on a unit axis; only this module adds and removes the axis.

A tensor [..., C, L] becomes an image [..., C, 1, L], a kernel of k elements one of 1 x k. torch computes 1-D layers;
the exported files, the integers of an average pooling and refinement have the 2-D form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..torch_private import pytree, with_torch_function, without_function_modes
from .padding import (
    padded_avg_pool1d,
    padded_avg_pool2d,
    padded_conv1d,
    padded_conv2d,
    padded_max_pool1d,
    padded_max_pool2d,
)

_UNIT = {"kernel_size": 1, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "output_size": 1}
_TENSORS = ("input", "weight")


def opened(x: Tensor) -> Tensor:
    """Returns ``x`` [..., C, L] as [..., C, 1, L], a view."""
    return x.unsqueeze(-2)


def closed(x: Tensor) -> Tensor:
    """Returns ``x`` [..., C, 1, L] as [..., C, L], a view."""
    return x.squeeze(-2)


def as_image(x: Tensor, axes: int) -> Tensor:
    """Returns ``x``, whose images have 1 or 2 ``axes``, with images of 2 axes."""
    return opened(x) if axes == 1 else x


def image_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a 1-D operation, such as ``stride``, for the 2-D operation; empty ones are left out."""
    given = {name: value for name, value in settings.items() if name not in _UNIT or value not in ((), [])}
    if "margins" in given:
        given["margins"] = (*given["margins"], 0, 0)
    return {name: _pair(value, _UNIT[name]) if name in _UNIT else value for name, value in given.items()}


def image_form(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns a 2-D form of the 1-D ``function``, with the same arguments; None for other functions."""
    found = _FORMS.get(function)
    if found is None:
        return None
    image_function, names = found

    def run(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tensors = {name: opened(given.pop(name)) for name in _TENSORS if name in given}
        result = image_function(**tensors, **image_settings(given))
        return pytree.tree_map_only(Tensor, closed, result)

    return run


@contextlib.contextmanager
def written_as_images() -> Iterator[None]:
    """Returns a context in which torch's 1-D functions are computed in 2-D; other modes do not see these calls."""
    with without_function_modes(), with_torch_function(), _AsImages():
        yield


class _AsImages(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        return (image_form(func) or func)(*args, **(kwargs or {}))


def _pair(value: Any, unit: int) -> Any:
    """Returns (unit, value); words such as ``same``, and None, are unchanged."""
    if value is None or isinstance(value, str):
        return value
    return (unit, value[0] if isinstance(value, Sequence) else value)


_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_ADAPTIVE = ("input", "output_size")
_FORMS: Mapping[Any, tuple[Callable[..., Any], tuple[str, ...]]] = {
    F.conv1d: (F.conv2d, _CONV),
    padded_conv1d: (padded_conv2d, ("input", "margins", *_CONV[1:])),
    F.conv_transpose1d: (F.conv_transpose2d, _CONV_TRANSPOSE),
    padded_max_pool1d: (padded_max_pool2d, ("input", "margins", *_MAX_POOL[1:5])),
    padded_avg_pool1d: (padded_avg_pool2d, ("input", "margins", *_AVG_POOL[1:4])),
    F.max_pool1d: (F.max_pool2d, _MAX_POOL),
    torch.max_pool1d: (F.max_pool2d, _MAX_POOL[:-1]),
    F.max_pool1d_with_indices: (F.max_pool2d_with_indices, _MAX_POOL),
    torch.max_pool1d_with_indices: (F.max_pool2d_with_indices, _MAX_POOL[:-1]),
    F.avg_pool1d: (F.avg_pool2d, _AVG_POOL),
    F.adaptive_avg_pool1d: (F.adaptive_avg_pool2d, _ADAPTIVE),
    F.adaptive_max_pool1d: (F.adaptive_max_pool2d, (*_ADAPTIVE, "return_indices")),
    F.adaptive_max_pool1d_with_indices: (F.adaptive_max_pool2d_with_indices, (*_ADAPTIVE, "return_indices")),
    torch.adaptive_max_pool1d: (F.adaptive_max_pool2d_with_indices, _ADAPTIVE),
}
