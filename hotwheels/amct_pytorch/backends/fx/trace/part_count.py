"""The number of tensors that a call cuts a traced tensor into."""

from __future__ import annotations

from torch.fx import Node


def count_of_parts(node: Node) -> int | None:
    """Returns the number of tensors of ``chunk``, ``split`` or ``unbind``; None if the call does not show it."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name not in ("chunk", "split", "tensor_split"):
        return None
    argument = {"chunk": "chunks", "split": "split_size", "tensor_split": "indices_or_sections"}[str(name)]
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get(argument)
    if isinstance(given, (list, tuple)):
        return len(given) + (name == "tensor_split")
    return given if isinstance(given, int) and name != "split" else None
