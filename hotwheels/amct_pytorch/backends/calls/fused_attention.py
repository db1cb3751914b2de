"""A switch for the fused kernel of nn.MultiheadAttention, which fake tensors and ONNX do not have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def without_fused_attention() -> Iterator[None]:
    """Returns a context in which nn.MultiheadAttention computes with separate operations."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
