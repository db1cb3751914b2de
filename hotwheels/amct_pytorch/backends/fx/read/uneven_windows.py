"""Average poolings whose windows have several sizes: no AveragePool, so no layer."""

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


def uneven_windows(node: Node, op: OpDesc, module: nn.Module | None) -> str | None:
    """Returns why an average pooling is no layer, from the sizes that a trace with input_data knows; else None."""
    is_adaptive = op.role is Role.AVG_POOL and op.name in ADAPTIVE
    mode = getattr(module, "mode", None) if module is not None else _mode(node)
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


def _mode(node: Node) -> object:
    return node.kwargs.get("mode", node.args[3] if len(node.args) > 3 else None)
