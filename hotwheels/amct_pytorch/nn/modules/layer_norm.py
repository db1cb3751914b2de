"""LayerNorm: layer normalisation along one axis, usually the channels of NCHW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..pico_ops import OPS


class LayerNorm(nn.Module):
    """Normalises ONE axis: ``(x - mean) / sqrt(var + eps) * weight + bias``, mean and (biased) variance along ``axis``.

    ``torch.nn.LayerNorm`` normalises the trailing axes instead, so here (N, C, H, W) needs no permutation. The state is
    that of ``torch.nn.LayerNorm(C)``: its checkpoints load strictly.

    Args:
        normalized_shape: C, the size of the axis, as an int or a sequence of one int.
        eps: Added to the variance.
        elementwise_affine: Whether there is a ``weight`` of shape (C,), at first ones, and possibly a ``bias``.
        bias: Whether there is a ``bias`` of shape (C,), at first zeros. None means no; a tensor of shape (C,) means yes
            and its values are copied, so that ``LayerNorm(C, bias=other.bias)`` takes over another layer's bias.
        axis: The axis to normalise: -3 = C of (N, C, H, W); -1 for (B, N, C).
        device: Where the parameters are made.
        dtype: Element type of the parameters.

    Raises:
        ConfigError: ``normalized_shape`` has more than one axis, or a given bias has another shape than (C,).
    """

    __constants__: ClassVar[list[str]] = ["normalized_shape", "eps", "elementwise_affine", "axis"]
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool | Tensor | None = True,
        axis: int = -3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class for the arguments."""
        super().__init__()
        self.normalized_shape = _single_axis(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.axis = axis
        # A tensor means yes; bool(tensor) would raise for a tensor with several elements.
        has_bias = elementwise_affine and (isinstance(bias, Tensor) or bool(bias))
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        for name, exists in (("weight", elementwise_affine), ("bias", has_bias)):
            value = nn.Parameter(torch.empty(self.normalized_shape, **factory)) if exists else None
            self.register_parameter(name, value)
        self.reset_parameters()
        if self.bias is not None and isinstance(bias, Tensor):
            _copy_bias(bias, self.bias)

    def reset_parameters(self) -> None:
        """Sets weight to ones and bias to zeros, where they exist."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` normalised along ``axis``, of the same shape."""
        y: Tensor = OPS.LayerNorm(x, self.weight, self.bias, self.axis, self.eps)
        return y

    def extra_repr(self) -> str:
        """Shows shape, eps, affinity and axis."""
        size, affine = self.normalized_shape, self.elementwise_affine
        return f"{size}, eps={self.eps}, elementwise_affine={affine}, bias={self.bias is not None}, axis={self.axis}"


def _single_axis(normalized_shape: int | Sequence[int]) -> tuple[int]:
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if len(sizes) != 1:
        msg = (
            f"normalized_shape of LayerNorm must be an int or hold one int, got {sizes}: "
            "this layer normalises one axis. Use torch.nn.LayerNorm for several."
        )
        raise ConfigError(msg)
    return sizes


def _copy_bias(source: Tensor, target: nn.Parameter) -> None:
    if source.shape != target.shape:
        raise ConfigError(f"bias of LayerNorm must have shape {tuple(target.shape)}, got {tuple(source.shape)}.")
    with torch.no_grad():
        target.copy_(source)
