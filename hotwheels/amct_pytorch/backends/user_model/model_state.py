"""ModelState: the attributes, buffers and containers of a float model, which a run or a trace must leave unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ExportError
from ...torch_private import known_version, pytree
from .float_model import advice_on_types

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (dict, list, set)


class ModelState:
    """The present attributes, buffers and containers of a model, and the state of torch's random generator.

    Containers are the dicts, lists and sets that modules hold, nested too. Attributes of other objects are not saved.

    Attributes:
      buffers: The saved tensors by their names.
    """

    def __init__(self, model: nn.Module) -> None:
        """Saves the state; buffers and tensors in attributes are copied, but not parameters, which no run changes."""
        self._modules = [(path, one, dict(vars(one)), _registries(one)) for path, one in model.named_modules()]
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, tuple[Tensor, int | None, Tensor]] = {}
        self.buffers = dict(model.named_buffers())
        for _, _, attributes, registries in self._modules:
            self._note(registries["_buffers"])
            for name, value in attributes.items():
                if name not in _REGISTRIES:
                    self._note(value)
        self._random = torch.get_rng_state()

    @property
    def has_drawn(self) -> bool:
        """Whether torch has drawn random numbers since."""
        return not torch.equal(self._random, torch.get_rng_state())

    def is_changed(self, tensor: Tensor) -> bool:
        """Whether a saved tensor has been written in place."""
        _, version, values = self._tensors[id(tensor)]
        return known_version(tensor) != version or not torch.equal(tensor, values)  # .data has a version of its own

    def changed_buffers(self) -> tuple[str, ...]:
        """Returns the names of the buffers that are other tensors now, or have other values."""
        found = []
        for path, module, _, registries in self._modules:
            for name, value in registries["_buffers"].items():
                is_other = module._buffers.get(name) is not value
                if value is not None and (is_other or self.is_changed(value)):
                    found.append(f"{path}.{name}" if path else name)
        return tuple(found)

    def changed_attributes(self) -> set[str]:
        """Returns the names of the attributes that are other objects now, or are containers with other elements."""
        found = set()
        for path, module, before, _ in self._modules:
            now = vars(module)
            names = (before.keys() | now.keys()) - set(_REGISTRIES)
            different = {name for name in names if not self._is_same(before, now, name)}
            found |= {f"{path}.{name}" if path else name for name in different}
        return found

    def replaced_values(self) -> list[Any]:
        """Returns the values of the attributes that hold other objects now, such as the key of a cache."""
        pairs = [(vars(module), attributes) for _, module, attributes, _ in self._modules]
        return [value for now, before in pairs for name, value in before.items() if now.get(name) is not value]

    def replaced_parameters(self) -> tuple[str, ...]:
        """Returns the names of the parameters in whose place other tensors are now."""
        return tuple(
            f"{path}.{name}" if path else name
            for path, module, _, registries in self._modules
            for name, value in registries["_parameters"].items()
            if module._parameters.get(name) is not value
        )

    def restore_buffers(self) -> None:
        """Restores the original buffers under their names, with their values."""
        self.put_back_buffers()
        self._restore_values(self.buffers.values())

    def put_back_buffers(self) -> None:
        """Restores the original buffers under their names; their values stay as they are."""
        for _, module, _, registries in self._modules:
            module._buffers.update(registries["_buffers"])

    def restore(self) -> None:
        """Undoes every change."""
        for _, module, attributes, registries in self._modules:
            vars(module).clear()
            vars(module).update(attributes)
            for name, content in registries.items():
                vars(module)[name].clear()
                vars(module)[name].update(content)
        for container, content in self._containers.values():
            if not _has_same(container, content):
                _refill(container, content)
        self._restore_values(tensor for tensor, _, _ in self._tensors.values())
        torch.set_rng_state(self._random)

    def _restore_values(self, tensors: Iterable[Tensor]) -> None:
        with torch.no_grad():
            for tensor in tensors:
                if self.is_changed(tensor):
                    tensor.copy_(self._tensors[id(tensor)][2])

    def _is_same(self, before: dict[str, Any], now: dict[str, Any], name: str) -> bool:
        if name not in before or name not in now or before[name] is not now[name]:
            return False
        _, content = self._containers.get(id(now[name]), (None, None))
        return content is None or _has_same(now[name], content)

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
    """Returns a context that undoes changes of ``model`` at exit: constants, Proxies in attributes, in-place writes.

    torch's random generator continues as if the context had drawn nothing.
    """
    state = ModelState(model)
    try:
        yield state
    finally:
        state.restore()


def run_example(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Returns the result of ``model`` in eval mode on copies of ``inputs``, without gradient.

    Raises:
      ExportError: The model cannot be called with ``inputs``.
    """
    copies = pytree.tree_map_only(Tensor, torch.clone, inputs)
    try:
        with torch.no_grad():
            return model.eval()(*copies)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        advice = advice_on_types(error)
        text = f"{str(error).rstrip('.')}. {advice}" if advice else str(error)
        raise ExportError(f"The model cannot be called with this input_data: {text}") from error


def _registries(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(module)[name]) for name in _REGISTRIES}


def _content(container: Any) -> Any:
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _has_same(container: Any, content: Any) -> bool:
    if len(container) != len(content):
        return False
    if isinstance(content, set):
        return bool(container == content)
    return all(one is other for one, other in zip(_flat(container), _flat(content), strict=True))


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


def _flat(content: Any) -> list[Any]:
    return [one for pair in content.items() for one in pair] if isinstance(content, dict) else list(content)
