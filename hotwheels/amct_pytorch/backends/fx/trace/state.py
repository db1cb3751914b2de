"""ModelState: restores everything that a trace may change on a model (spec 1.6(d))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy

from ....torch_private import known_version
from ...calls.function_names import is_in_place_name
from .guided.proxies import GuidedProxy

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (dict, list, set)


class ModelState:
    """The present attributes, buffers and containers of a model.

    Containers are the dicts, lists and sets that modules hold, nested too. Attributes of other objects are not saved.
    """

    def __init__(self, model: nn.Module) -> None:
        """Saves the state; buffers and tensors in attributes are copied, but not parameters, which no trace changes."""
        self._modules = [(module, dict(vars(module)), _registries(module)) for module in model.modules()]
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, tuple[Tensor, int | None, Tensor]] = {}
        self._buffers = {name: value for name, value in model.named_buffers()}
        for _, attributes, registries in self._modules:
            self._note(registries["_buffers"])
            for name, value in attributes.items():
                if name not in _REGISTRIES:
                    self._note(value)
        self._random = torch.get_rng_state()

    @property
    def has_drawn(self) -> bool:
        """Whether torch has drawn random numbers since."""
        return not torch.equal(self._random, torch.get_rng_state())

    def written_buffers(self, model: nn.Module) -> frozenset[str]:
        """Returns the names of the buffers that are now other tensors of the same shape, or have other values.

        A buffer with another shape is no state: it is computed anew when needed, like a table of positions.
        """
        now = dict(_slots(model))
        return frozenset(
            name
            for name, value in self._buffers.items()
            if _is_new_value(now.get(name, value), value) or known_version(value) != self._tensors[id(value)][1]
        )

    def replaced_values(self) -> list[Any]:
        """Returns the values of the attributes that hold other objects now, such as the key of a cache."""
        pairs = [(vars(module), attributes) for module, attributes, _ in self._modules]
        return [value for now, before in pairs for name, value in before.items() if now.get(name) is not value]

    def put_back_buffers(self) -> None:
        """Restores the original buffers under their names."""
        for module, _, registries in self._modules:
            module._buffers.update(registries["_buffers"])

    def restore(self) -> None:
        """Undoes every change."""
        for module, attributes, registries in self._modules:
            vars(module).clear()
            vars(module).update(attributes)
            for name, content in registries.items():
                vars(module)[name].clear()
                vars(module)[name].update(content)
        for container, content in self._containers.values():
            _refill(container, content)
        for tensor, version, values in self._tensors.values():
            if known_version(tensor) != version:
                with torch.no_grad():
                    tensor.copy_(values)
        torch.set_rng_state(self._random)

    def _note(self, value: Any) -> None:
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter) and id(value) not in self._tensors:
                self._tensors[id(value)] = (value, known_version(value), value.detach().clone())
        elif isinstance(value, _CONTAINERS) and id(value) not in self._containers:
            content = _content(value)
            self._containers[id(value)] = (value, content)
            for one in content.values() if isinstance(content, dict) else content:
                self._note(one)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[ModelState]:
    """Returns a context that undoes changes of ``model`` at exit: constants, Proxies in attributes, in-place writes."""
    state = ModelState(model)
    try:
        yield state
    finally:
        state.restore()


@contextlib.contextmanager
def buffers_take_proxies() -> Iterator[None]:
    """Returns a context in which a Proxy can be assigned to the name of a buffer."""
    original = nn.Module.__setattr__

    def __setattr__(self: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, Proxy) and name in vars(self).get("_buffers", ()):
            self._buffers[name] = value  # type: ignore[assignment]
        else:
            original(self, name, value)

    nn.Module.__setattr__ = __setattr__  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


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
    while node.op != "get_attr":
        source = node.args[0] if node.args else None
        if not isinstance(source, Node) or not _changes_first(node):
            return False
        node = source
    return node.target == name


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


def _registries(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(module)[name]) for name in _REGISTRIES}


def _content(container: Any) -> Any:
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _refill(container: Any, content: Any) -> None:
    now = _content(container)
    pairs = zip(_flat(now), _flat(content), strict=False)
    if len(now) == len(content) and (now == content if isinstance(now, set) else all(a is b for a, b in pairs)):
        return
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


def _flat(content: Any) -> list[Any]:
    return [one for pair in content.items() for one in pair] if isinstance(content, dict) else list(content)
