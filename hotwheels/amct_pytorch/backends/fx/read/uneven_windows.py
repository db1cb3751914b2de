"""Poolings whose windows have several sizes, and resizes with antialias: products with matrices, so no layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Node

from ....ops.desc import OpDesc, Role
from ....ops.table import ADAPTIVE
from ...calls.pooling_windows import even_windows

_REASON = (
    "its windows have several sizes, which ONNX's AveragePool does not have; it is written as products with constant"
    " matrices, in float"
)
_SMOOTH = "antialias=True is written as products with constant matrices, in float"


def uneven_windows(node: Node, op: OpDesc, module: nn.Module | None) -> str | None:
    """Returns why a pooling or resize is no layer, from the sizes that a trace with input_data knows; else None."""
    if op.name == "resize" and module is None and _argument(node, "antialias", 6) is True:
        return _SMOOTH
    is_adaptive = op.role is Role.AVG_POOL and op.name in ADAPTIVE
    mode = getattr(module, "mode", None) if module is not None else _argument(node, "mode", 3)
    if not is_adaptive and not (op.name == "resize" and mode == "area"):
        return None
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    before, after = (None if one is None else one.meta.get("val") for one in (source, node))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    rank = op.image_axes if is_adaptive else after.dim() - 2
    sizes = before.shape[-rank:], after.shape[-rank:]
    if any(not isinstance(one, int) for one in (*sizes[0], *sizes[1])):
        return None
    return None if even_windows(*sizes) is not None else _REASON


def _argument(node: Node, name: str, place: int) -> object:
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else None)
