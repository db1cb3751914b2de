"""Masks on attention scores, and the softmax under them, as single nodes of the graph.

Only when these nodes run is it known whether there is a mask, and whether it is bool or float: in a trace a mask is a
Proxy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_softmax(
    scores: Tensor,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    marks_blocked: bool = True,
) -> Tensor:
    """Returns the softmax over the keys of `masked_scores`.

    This is no quantized layer: a masked score is -inf, which no grid contains, and any finite substitute would widen
    the grid at the cost of the other scores.
    """
    return torch.softmax(masked_scores(scores, attn_mask, key_padding_mask, is_causal, marks_blocked), dim=-1)


def masked_scores(
    scores: Tensor,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    marks_blocked: bool = True,
) -> Tensor:
    """Returns ``scores`` [..., queries, keys], -inf where a mask blocks; ``scores`` itself without any mask.

    Args:
      scores: Scaled products of queries and keys; [N, heads, queries, keys] if there is a ``key_padding_mask``.
      attn_mask: Added if it is float. Broadcasts against ``scores``, or is [N * heads, queries, keys].
      key_padding_mask: [N, keys]; added if it is float, True is blocked otherwise.
      is_causal: Whether query i sees no key behind key i.
      marks_blocked: What True means in ``attn_mask``: blocked (nn.MultiheadAttention) or seen (F.sdpa).
    """
    if attn_mask is not None:
        # Only nn.MultiheadAttention has masks for samples and heads in one axis; F.sdpa broadcasts.
        mask = _aligned(attn_mask, scores) if marks_blocked else attn_mask
        scores = _masked(scores, mask, marks_blocked)
    if key_padding_mask is not None:
        scores = _masked(scores, key_padding_mask[:, None, None, :], True)
    if is_causal:
        scores = scores.masked_fill(_behind(scores), float("-inf"))
    return scores


def is_unmasked(
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    marks_blocked: bool = True,  # noqa: ARG001 - called with the arguments of masked_scores
) -> bool:
    """Whether `masked_scores` with these arguments returns its scores unchanged."""
    return attn_mask is None and key_padding_mask is None and not is_causal


def _aligned(mask: Tensor, scores: Tensor) -> Tensor:
    return mask.reshape(scores.shape) if mask.dim() == 3 and scores.dim() == 4 else mask


def _masked(scores: Tensor, mask: Tensor, marks_blocked: bool) -> Tensor:
    if mask.dtype != torch.bool:
        return scores + mask.to(scores.dtype)
    return scores.masked_fill(mask if marks_blocked else ~mask, float("-inf"))


def _behind(scores: Tensor) -> Tensor:
    """Returns a bool mask: True if the key comes after the query."""
    queries, keys = (torch.arange(scores.shape[axis], device=scores.device) for axis in (-2, -1))
    return keys[None, :] > queries[:, None]
