"""MultiheadConvAttention: multi-head attention whose projections are 1x1 convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import ConfigError
from ._linear_weights import LinearWeightsMixin

# Added to the scores of masked keys: e^-1000 is 0 in float32, and unlike -inf the number -1000 has a grid point.
_MASK_SCORE = -1000


class MultiheadConvAttention(LinearWeightsMixin):
    """Multi-head attention on channel-first sequences (B, C, 1, N), N being the number of tokens.

    ``softmax(k^T q * scale + mask * -1000)`` over the keys, then ``v`` times that, per head, then ``out_proj``. Equals
    ``torch.nn.MultiheadAttention`` with the same weights. ``q``, ``k``, ``v`` and ``out_proj`` are ``torch.nn.Conv2d``
    with bias; weights [out, in] of Linear layers load into them. Tracing goes through this module, so that the
    convolutions get quantized (spec 8.1).

    Args:
        embed_dim: C, the number of channels.
        n_heads: Number of heads; divides ``embed_dim``.

    Raises:
        ConfigError: ``n_heads`` does not divide ``embed_dim``.
    """

    amct_leaf = False

    def __init__(self, embed_dim: int, n_heads: int) -> None:
        """See the class for the arguments."""
        super().__init__()
        if n_heads < 1 or embed_dim % n_heads:
            msg = f"n_heads of MultiheadConvAttention must divide embed_dim {embed_dim}, got {n_heads}."
            raise ConfigError(msg)
        self.embed_dim = embed_dim
        self.n_heads = n_heads
        self.head_dim = embed_dim // n_heads
        self.scale = self.head_dim**-0.5
        self.q = nn.Conv2d(embed_dim, embed_dim, kernel_size=1)
        self.k = nn.Conv2d(embed_dim, embed_dim, kernel_size=1)
        self.v = nn.Conv2d(embed_dim, embed_dim, kernel_size=1)
        self.out_proj = nn.Conv2d(embed_dim, embed_dim, kernel_size=1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the attended values (B, C, 1, N) of queries ``q`` (B, C, 1, N), keys and values (B, C, 1, M).

        ``mask``: 1 or True where a key must not be seen; broadcasts against the scores (B, n_heads, M, N).
        """
        queries, keys, values = (self._split_heads(x) for x in (self.q(q), self.k(k), self.v(v)))
        scores = keys.transpose(-2, -1) @ queries * self.scale
        if mask is not None:
            scores = scores + mask.float() * _MASK_SCORE
        attended = values @ scores.softmax(dim=-2)
        y: Tensor = self.out_proj(attended.reshape(attended.shape[0], self.embed_dim, 1, -1))
        return y

    def _split_heads(self, x: Tensor) -> Tensor:
        """Returns ``x`` (B, C, 1, N) as (B, n_heads, C / n_heads, N)."""
        return x.reshape(x.shape[0], self.n_heads, self.head_dim, -1)
