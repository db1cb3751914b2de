"""Convolutions as matrix products in a float type: exact on integers while no sum exceeds the type's mantissa."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deploy_pair import Node
from .windows import Windows, windows


def conv(node: Node, x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Returns the convolution without bias.

    Args:
      node: The node, which has pads, strides, dilations and group.
      x: [N, C, *spatial], padded with zeros.
      weight: [C_out, C / group, *kernel].

    Raises:
      ValueError: The channels do not fit.
    """
    groups = node.get("group", 1)
    _check_channels(x.shape[1], weight.shape[1] * groups, weight.shape[0], groups)
    geometry = windows(node, x.shape[2:], weight.shape[2:])
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    result = np.empty((len(x), weight.shape[0], *geometry.output), dtype=x.dtype)
    for image, padded in enumerate(geometry.pad(x, 0)):  # one image at a time, as the columns need kernel-size times it
        result[image] = np.matmul(matrix, _columns(geometry, padded, groups)).reshape(result.shape[1:])
    return result


def conv_transpose(node: Node, x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Returns the transposed convolution without bias: every input element adds its multiple of the kernel.

    Args:
      node: The node, which has pads, strides, dilations, group and output_padding.
      x: [N, C, *spatial].
      weight: [C, C_out / group, *kernel].

    Raises:
      ValueError: The channels do not fit.
    """
    groups, kernel = node.get("group", 1), weight.shape[2:]
    _check_channels(x.shape[1], weight.shape[0], weight.shape[1] * groups, groups)
    full, begin, output = transposed_geometry(node, x.shape[2:], kernel)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
    result = np.zeros((len(x), weight.shape[1] * groups, *full.size), dtype=x.dtype)
    for image in range(len(x)):
        products = np.matmul(matrix, x[image].reshape(groups, x.shape[1] // groups, -1))
        products = products.reshape(result.shape[1], *kernel, *x.shape[2:])
        for position in itertools.product(*map(range, kernel)):
            full.tap(result[image], position)[...] += products[(slice(None), *position)]
    kept: list[Any] = [slice(start, start + size) for start, size in zip(begin, output, strict=True)]
    return result[(..., *kept)]


def channel_sums(weight: NDArray[Any], groups: int, *, is_transposed: bool) -> NDArray[Any]:
    """Returns the sum of |weight| over the terms of one output element, per output channel.

    Multiplied by max |x| this bounds every partial sum.
    """
    magnitude = np.abs(weight.astype(np.float64))
    if not is_transposed:
        return np.asarray(magnitude.reshape(len(weight), -1).sum(axis=1))
    grouped = magnitude.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.asarray(grouped.sum(axis=(1, 3))).reshape(-1)


def _columns(geometry: Windows, padded: NDArray[Any], groups: int) -> NDArray[Any]:
    """Returns one image as [groups, C / groups * kernel, windows]."""
    taps, places = math.prod(geometry.kernel), math.prod(geometry.output)
    if taps == 1:
        return geometry.tap(padded, (0,) * len(geometry.kernel)).reshape(groups, -1, places)
    columns = np.empty((len(padded), taps, *geometry.output), dtype=padded.dtype)
    for number, position in enumerate(itertools.product(*map(range, geometry.kernel))):
        columns[:, number] = geometry.tap(padded, position)
    return columns.reshape(groups, -1, places)


def transposed_geometry(
    node: Node, size: Sequence[int], kernel: Sequence[int]
) -> tuple[Windows, tuple[int, ...], tuple[int, ...]]:
    """Returns (windows over the uncropped output, start of the result inside that output, size of the result)."""
    rank = len(size)
    stride = tuple(node.get("strides", (1,) * rank))
    dilation = tuple(node.get("dilations", (1,) * rank))
    extra = tuple(node.get("output_padding", (0,) * rank))
    if node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape") is not None:
        raise ValueError("auto_pad and output_shape are not supported for ConvTranspose.")
    pads = tuple(node.get("pads", (0,) * (2 * rank)))
    whole = tuple((size[at] - 1) * stride[at] + dilation[at] * (kernel[at] - 1) + 1 + extra[at] for at in range(rank))
    output = tuple(whole[at] - pads[at] - pads[rank + at] for at in range(rank))
    zeros = (0,) * rank
    full = Windows(
        size=whole,
        kernel=tuple(kernel),
        stride=stride,
        dilation=dilation,
        begin=zeros,
        end=zeros,
        output=tuple(size),
    )
    return full, pads[:rank], output


def _check_channels(found: int, expected: int, outputs: int, groups: int) -> None:
    if found != expected or outputs % groups:
        raise ValueError(
            f"{found} input and {outputs} output channels in {groups} groups; the weight has {expected} inputs."
        )
