"""Zeros in front of a convolution or pooling as a setting of the layer, its margins: the files have them as ``pads``.

Margins have the order of `torch.nn.functional.pad`: begin and end of the last axis, then of the axis before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

Margins = tuple[int, ...]


def padded_conv2d(input: Tensor, margins: Margins, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Returns ``F.conv2d`` of ``input`` with ``margins`` of zeros, to which its own ``padding`` is added."""
    if has_torch_function((input, weight)):
        result: Tensor = handle_torch_function(padded_conv2d, (input, weight), input, margins, weight, *args, **kwargs)
        return result
    return F.conv2d(F.pad(input, margins), weight, *args, **kwargs)


def padded_conv1d(input: Tensor, margins: Margins, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Returns ``F.conv1d`` of ``input`` with ``margins`` of zeros, to which its own ``padding`` is added."""
    if has_torch_function((input, weight)):
        result: Tensor = handle_torch_function(padded_conv1d, (input, weight), input, margins, weight, *args, **kwargs)
        return result
    return F.conv1d(F.pad(input, margins), weight, *args, **kwargs)


def padded_max_pool2d(
    input: Tensor, margins: Margins, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """Returns the maxima over windows of ``input`` with ``margins`` of zeros; ``input`` must not be negative."""
    if has_torch_function((input,)):
        result: Tensor = handle_torch_function(
            padded_max_pool2d, (input,), input, margins, kernel_size, stride, padding, dilation
        )
        return result
    return F.max_pool2d(F.pad(input, margins), kernel_size, stride, padding, dilation)


def padded_avg_pool2d(input: Tensor, margins: Margins, kernel_size: Any, stride: Any, padding: Any) -> Tensor:
    """Returns the means over windows of ``input`` with ``margins`` of zeros, which count as elements."""
    if has_torch_function((input,)):
        result: Tensor = handle_torch_function(
            padded_avg_pool2d, (input,), input, margins, kernel_size, stride, padding
        )
        return result
    return F.avg_pool2d(F.pad(input, margins), kernel_size, stride, padding)


def padded_max_pool1d(
    input: Tensor, margins: Margins, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """Returns the maxima over windows of the sequences ``input`` with ``margins`` of zeros; see `padded_max_pool2d`."""
    if has_torch_function((input,)):
        result: Tensor = handle_torch_function(
            padded_max_pool1d, (input,), input, margins, kernel_size, stride, padding, dilation
        )
        return result
    return F.max_pool1d(F.pad(input, margins), kernel_size, stride, padding, dilation)


def padded_avg_pool1d(input: Tensor, margins: Margins, kernel_size: Any, stride: Any, padding: Any) -> Tensor:
    """Returns the means over windows of the sequences ``input`` with ``margins`` of zeros, which count as elements."""
    if has_torch_function((input,)):
        result: Tensor = handle_torch_function(
            padded_avg_pool1d, (input,), input, margins, kernel_size, stride, padding
        )
        return result
    return F.avg_pool1d(F.pad(input, margins), kernel_size, stride, padding)


class _PaddedMaxPool(nn.Module):
    """A maximum pooling whose input gets margins of zeros.

    Attributes:
      margins: See `padded_max_pool2d`.
    """

    amct_leaf = True
    pool: ClassVar[Callable[..., Tensor]]

    def __init__(self, margins: Margins, **settings: Any) -> None:
        super().__init__(**settings)
        self.margins = margins

    def forward(self, input: Tensor) -> Tensor:
        """Computes the maxima."""
        own: Any = self
        return type(self).pool(input, self.margins, own.kernel_size, own.stride, own.padding, own.dilation)


class _PaddedAvgPool(nn.Module):
    """An average pooling whose input gets margins of zeros.

    Attributes:
      margins: See `padded_avg_pool2d`.
    """

    amct_leaf = True
    pool: ClassVar[Callable[..., Tensor]]

    def __init__(self, margins: Margins, **settings: Any) -> None:
        super().__init__(**settings)
        self.margins = margins

    def forward(self, input: Tensor) -> Tensor:
        """Computes the means."""
        own: Any = self
        return type(self).pool(input, self.margins, own.kernel_size, own.stride, own.padding)


class PaddedMaxPool2d(_PaddedMaxPool, nn.MaxPool2d):
    """A MaxPool2d with margins."""

    pool = staticmethod(padded_max_pool2d)


class PaddedMaxPool1d(_PaddedMaxPool, nn.MaxPool1d):
    """A MaxPool1d with margins."""

    pool = staticmethod(padded_max_pool1d)


class PaddedAvgPool2d(_PaddedAvgPool, nn.AvgPool2d):
    """An AvgPool2d with margins."""

    pool = staticmethod(padded_avg_pool2d)


class PaddedAvgPool1d(_PaddedAvgPool, nn.AvgPool1d):
    """An AvgPool1d with margins."""

    pool = staticmethod(padded_avg_pool1d)


POOLS: Mapping[str, type[nn.Module]] = {  # by the names of `ops.table`
    "max_pool2d": PaddedMaxPool2d,
    "max_pool1d": PaddedMaxPool1d,
    "avg_pool2d": PaddedAvgPool2d,
    "avg_pool1d": PaddedAvgPool1d,
}
