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


def _padded(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns ``name(input, margins, ...)``: ``function`` of ``input`` with ``margins`` of zeros and other arguments.

    The zeros count as elements: those of ``function``'s own ``padding`` are added to them.
    """

    def padded(input: Tensor, margins: Margins, *args: Any, **kwargs: Any) -> Tensor:
        operands = (input, *args)
        if has_torch_function(operands):
            result: Tensor = handle_torch_function(padded, operands, input, margins, *args, **kwargs)
            return result
        return function(F.pad(input, margins), *args, **kwargs)

    padded.__name__ = padded.__qualname__ = name  # by which generated code and pickles find the function in this module
    return padded


padded_conv1d = _padded("padded_conv1d", F.conv1d)
padded_conv2d = _padded("padded_conv2d", F.conv2d)
# Of inputs that are not negative.
padded_max_pool1d = _padded("padded_max_pool1d", F.max_pool1d)
padded_max_pool2d = _padded("padded_max_pool2d", F.max_pool2d)
padded_avg_pool1d = _padded("padded_avg_pool1d", F.avg_pool1d)
padded_avg_pool2d = _padded("padded_avg_pool2d", F.avg_pool2d)


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
