"""Buffers under a trace: they take Proxies; values that the forward assigns to them are recorded (spec 1.6(d))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import TraceError

from ...calls.function_names import is_in_place_name
from ...user_model.model_state import ModelState
from ...user_model.written_parameters import PARAMETER_CHANGED
from .guided.proxies import GuidedProxy


@contextlib.contextmanager
def buffers_take_proxies() -> Iterator[None]:
    """Returns a context in which a Proxy can be assigned to the name of a buffer.

    ``self.weight /= 2`` assigns the changed parameter to its own name; another tensor in its place is a TraceError.
    """
    original = nn.Module.__setattr__

    def __setattr__(self: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, Proxy) and name in vars(self).get("_buffers", ()):
            self._buffers[name] = value  # type: ignore[assignment]
        elif isinstance(value, Proxy) and name in vars(self).get("_parameters", ()):
            source = _source(value.node)
            if source is None or source.rpartition(".")[2] != name:
                raise TraceError(f"{PARAMETER_CHANGED} '{name}' of {type(self).__name__}: it puts another tensor there")
        else:
            original(self, name, value)

    nn.Module.__setattr__ = __setattr__  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


def written_buffers(state: ModelState, model: nn.Module) -> frozenset[str]:
    """Returns the names of the buffers of ``state`` that are now other tensors of the same shape, or have other values.

    A buffer with another shape is no state: it is computed anew when needed, like a table of positions.
    """
    now = dict(_slots(model))
    return frozenset(
        name
        for name, value in state.buffers.items()
        if _is_new_value(now.get(name, value), value) or state.is_changed(value)
    )


def record_new_values(root: nn.Module, graph: Graph, names: frozenset[str]) -> list[Node]:
    """Records the values that the forward has assigned to the buffers ``names``, so that the graph assigns them too.

    Returns:
      The assigning nodes, at the end of ``graph``.
    """
    output = next(reversed(graph.nodes))
    nodes = []
    for name, value in _slots(root):
        if name in names and isinstance(value, Proxy) and not _is_reading(value.node, name):
            with graph.inserting_before(output):
                buffer = graph.get_attr(name)
                nodes.append(graph.call_method("copy_", (buffer, value.node)))
    return nodes


def _is_new_value(now: Any, before: Tensor) -> bool:
    value = now.amct_value if isinstance(now, GuidedProxy) else now
    return now is not before and not (isinstance(value, Tensor) and value.shape != before.shape)


def _is_reading(node: Node, name: str) -> bool:
    """Whether ``node`` is the buffer itself, changed in place and assigned to its own name, as ``+=`` does."""
    return _source(node) == name


def _source(node: Node) -> str | None:
    """Returns the path of the parameter or buffer that ``node`` is, perhaps changed in place; None if it is none."""
    while node.op != "get_attr":
        source = node.args[0] if node.args else None
        if not isinstance(source, Node) or not _changes_first(node):
            return None
        node = source
    return str(node.target)


def _changes_first(node: Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    is_operator = getattr(node.target, "__module__", "") == "_operator" and name.startswith("i")
    return is_operator or is_in_place_name(name)


def _slots(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields (path, present value) for the names of buffers, whether the value is a tensor or not."""
    for path, module in model.named_modules():
        for name, value in module._buffers.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value
