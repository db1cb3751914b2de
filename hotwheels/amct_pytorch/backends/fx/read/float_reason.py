"""Notes on nodes: why a pass over the graph left the node in float."""

from __future__ import annotations

from torch.fx import Node

_REASON = "amct_float_reason"


def mark_float(node: Node, reason: str) -> None:
    """Notes why ``node`` runs in float."""
    node.meta[_REASON] = reason


def float_reason(node: Node) -> str | None:
    """Returns why a pass left ``node`` in float; None if no pass did."""
    return node.meta.get(_REASON)
