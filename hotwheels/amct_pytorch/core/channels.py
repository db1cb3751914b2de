"""Where the output channels of a weight are: views that put them first, and back."""

from __future__ import annotations

from torch import Tensor


def to_output_first(weight: Tensor, groups: int = 1, is_transposed: bool = False) -> Tensor:
    """Returns ``weight`` as [C_out, ...]; ``weight`` itself unless ``is_transposed``. Differentiable.

    The weight of a transposed convolution is [C_in, C_out / groups, kh, kw]; its channel ``g * (C_out / groups) + j``
    is made of the input rows of group g and the column j, so the result is [C_out, C_in / groups, kh, kw] (spec 6.1).
    """
    if not is_transposed:
        return weight
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def from_output_first(weight: Tensor, groups: int = 1, is_transposed: bool = False) -> Tensor:
    """Inverse of to_output_first: [C_out, C_in / groups, ...] to the layout of the operator. Differentiable."""
    if not is_transposed:
        return weight
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Returns ``values`` of shape [] or [C] shaped to broadcast against the axis 0 of ``like``; a view."""
    return values.reshape(-1, *[1] * (like.dim() - 1)) if values.dim() else values
