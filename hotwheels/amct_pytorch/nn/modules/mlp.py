"""Mlp: the feed-forward block of Swin Transformer V1 with 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ._linear_weights import LinearWeightsMixin
from .gelu import GELU


class Mlp(LinearWeightsMixin):
    """``fc1``, ``act``, ``drop``, ``fc2``, ``drop`` on (N, C, H, W), as Swin V1's Mlp on (N, H W, C).

    ``fc1`` and ``fc2`` are 1x1 ``torch.nn.Conv2d`` with bias; weights [out, in] of Swin's Linear layers load into them.
    Tracing goes through this module, so that the convolutions get quantized (spec 8.1).

    Args:
        in_features: Input channels.
        hidden_features: Channels between the two convolutions; None for ``in_features``.
        out_features: Output channels; None for ``in_features``.
        act_layer: Makes the activation; called without arguments.
        drop: Probability of the dropout after the activation and after ``fc2``.
    """

    amct_leaf = False

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Callable[[], nn.Module] = GELU,
        drop: float = 0.0,
    ) -> None:
        """See the class for the arguments."""
        super().__init__()
        hidden_features = hidden_features or in_features
        out_features = out_features or in_features
        self.fc1 = nn.Conv2d(in_features, hidden_features, kernel_size=1)
        self.act = act_layer()
        self.fc2 = nn.Conv2d(hidden_features, out_features, kernel_size=1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, out_features, H, W) of ``x`` (N, in_features, H, W)."""
        x = self.drop(self.act(self.fc1(x)))
        y: Tensor = self.drop(self.fc2(x))
        return y
