"""Whether an axis keeps its size, of which a trace may know only an expression."""

from __future__ import annotations

import torch


def stays(before: int | torch.SymInt, after: int | torch.SymInt) -> bool:
    """Whether two sizes are the same number, or have the same expression.

    Comparing symbolic sizes by value would fix the sizes of the inputs.
    """
    if isinstance(before, int) or isinstance(after, int):
        return isinstance(before, int) and isinstance(after, int) and before == after
    return bool(before.node.expr == after.node.expr)
