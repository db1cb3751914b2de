"""The axes of attention: heads split from the channels for the products, and joined again behind them."""

from __future__ import annotations

from typing import Any

Values = Any  # a tensor, or a torch.fx.Proxy, which has the operators of a tensor but does not declare them


def by_head(batch_first: bool) -> tuple[int, ...]:
    """Returns the order of the axes that gives [batch, heads, tokens, channels of a head] once heads are split."""
    return (0, 2, 1, 3) if batch_first else (1, 2, 0, 3)


def split_heads(x: Values, num_heads: int, head_dim: Any, order: tuple[int, ...]) -> Values:
    """Returns ``x`` [a, b, channels] as [a, b, heads, ``head_dim``] with its axes in ``order``.

    Both sizes are read: with -1 for one of them, an unbatched input would give wrong results.
    """
    return x.reshape(x.size(0), x.size(1), num_heads, head_dim).permute(*order)


def in_tokens(attended: Values, batch_first: bool) -> Values:
    """Returns ``attended``, by head, with the axes of the tokens: [a, b, heads, channels of a head]."""
    return attended.permute(*((0, 2, 1, 3) if batch_first else (2, 0, 1, 3)))
