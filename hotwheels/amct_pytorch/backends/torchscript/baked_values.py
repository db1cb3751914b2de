"""Finds the lines of a user's model that read values of tensors in Python while torch's exporter traces it.

``float(h.max())``, ``h.tolist()``, ``if h.mean() > 0`` work in torch on every input. The file has the value, or the
branch, of the example. Sizes only count as values if they depend on data, as ``len(x[mask])``: a file is made for one
image size anyway.
"""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...log import get_logger
from ...torch_private import pytree
from ...torch_torchscript import is_tracing, traced_value
from ..calls.tensor_facts import is_fact

_log = get_logger(__name__)
_OWN_FOLDERS = (Path(torch.__file__).parent, Path(__file__).parents[2])
# Functions whose result depends on the shape of their arguments alone.
_SHAPES = frozenset(
    {"aten::size", "aten::numel", "aten::dim", "aten::len", "prim::shape", "aten::zeros_like", "aten::ones_like"}
    | {"aten::full_like", "aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::empty_like", "aten::new_empty"}
)
# Functions whose result has a size that depends on the values of their arguments.
_SIZES_OF_DATA = frozenset(
    {f"aten::{name}" for name in ("nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount")}
    | {"aten::_unique", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "torchvision::nms"}
)


class BakedValues(TorchFunctionMode):
    """While this mode is active, it notes where values that depend on the inputs become numbers, lists or arrays.

    Attributes:
      lines: The user's lines, ``file:number: source``, each once, in order of their first occurrence.
    """

    def __init__(self, input_count: int) -> None:
        """``input_count``: number of the trace's inputs in front of the parameters."""
        super().__init__()
        self.lines: dict[str, None] = {}
        self._input_count = input_count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        result = func(*args, **(kwargs or {}))
        if is_tracing() and getattr(func, "__name__", "") == "__len__" and _has_size_of_data(traced_value(args[0])):
            self.lines.setdefault(user_line())
        elif is_tracing() and _is_value(func, result):
            tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if any(self._depends_on_inputs(one) for one in tensors):
                self.lines.setdefault(user_line())
        return result

    def _depends_on_inputs(self, x: Tensor) -> bool:
        """Whether the trace computes ``x`` from values of the inputs, not from their sizes and parameters alone."""
        for value in _ancestors(traced_value(x), _SHAPES):
            node = value.node()
            if node.kind() in _SHAPES and any(_has_size_of_data(one) for one in node.inputs()):
                return True
            if node.kind() == "prim::Param":
                names = [one.debugName() for one in node.outputs()]
                if names.index(value.debugName()) < self._input_count:
                    return True
        return False


def _ancestors(start: Any, ends: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Yields the value ``start`` of a trace and those that it is computed from, up to nodes of the kinds ``ends``."""
    waiting, seen = [] if start is None else [start], set()
    while waiting:
        value = waiting.pop()
        if value.debugName() not in seen:
            seen.add(value.debugName())
            yield value
            if value.node().kind() not in ends | {"prim::Param"}:
                waiting += list(value.node().inputs())


def _has_size_of_data(value: Any) -> bool:
    """Whether the tensor of a trace is computed from one whose size depends on data."""
    return any(_makes_size_of_data(one.node()) for one in _ancestors(value, _SHAPES))


def _makes_size_of_data(node: Any) -> bool:
    kind, inputs = node.kind(), list(node.inputs())
    if kind == "aten::index":
        indices = [one for one in inputs[1].node().inputs() if one.type().kind() == "TensorType"]
        return any(one.type().scalarType() in ("Bool", "Byte") for one in indices)
    if kind == "aten::where":
        return len(inputs) == 1  # the places of a mask
    if kind == "aten::repeat_interleave":
        return len(inputs) == 1 or inputs[1].type().kind() == "TensorType"  # counts
    return kind in _SIZES_OF_DATA


def report_baked(lines: Iterable[str]) -> None:
    """Logs one WARNING with all ``lines``, if there are any."""
    listed = "; ".join(dict.fromkeys(lines))
    if listed:
        _log.warning(
            "The exported files hold a value of input_data as a constant, or a branch that it decides, since the model"
            " reads it in Python: %s. On other inputs they differ from the model in PyTorch.",
            listed,
        )


def _is_value(func: Callable[..., Any], result: Any) -> bool:
    """Whether ``result`` is a Python value that depends on values of a tensor, not only on its shape or type."""
    if result is None or is_fact(func):
        return False
    if getattr(func, "__name__", "") == "tensor":  # torch.tensor(x) makes a copy that the tracer does not connect to x
        return True
    return not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result))


def user_line() -> str:
    """Returns the line of the user's code that is running, ``file:number: source``."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "a line of Python"
    name = frame.f_code.co_filename
    return f"{name}:{frame.f_lineno}: {linecache.getline(name, frame.f_lineno).strip()}"


def is_user_file(name: str) -> bool:
    """Whether the source file ``name`` is neither of torch nor of this package."""
    return not name.startswith("<") and not any(folder in Path(name).parents for folder in _OWN_FOLDERS)
