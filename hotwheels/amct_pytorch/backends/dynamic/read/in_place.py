"""Finds modules that must keep changing their input in place, because the input is read again later.

A quantized layer works on a quantized copy, so working out of place costs nothing, and gives the same result if the
input is not read again. The residual units of MiDaS do read it: ``conv(relu(y)) + y`` adds the values that the ReLU has
written into ``y``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ....torch_private import pytree, without_torch_function
from ...calls.tensor_facts import is_fact
from ...user_model.model_state import run_example, unchanged
from ..forwards import OriginalForward, replace_forward


def find_read_again(model: nn.Module, inputs: tuple[Any, ...], modules: Mapping[str, nn.Module]) -> frozenset[str]:
    """Returns the paths of those ``modules`` whose input is read again after them in ``model(*inputs)``.

    All ``modules`` work in place. The state of the model is restored.

    Raises:
      ExportError: The model cannot be called with ``inputs``.
    """
    if not modules:
        return frozenset()
    watch = _Watch()
    with unchanged(model), _out_of_place(modules, watch), watch:
        result = run_example(model, inputs)
    watch.see(result)
    return frozenset(watch.read_again)


class _Watch(TorchFunctionMode):
    """Records which inputs of modules are read after the modules.

    Attributes:
      read_again: The paths of these modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read_again: set[str] = set()
        self._inputs: dict[int, list[str]] = {}  # by the memory
        self._kept: list[Tensor] = []  # so that no other tensor gets that memory

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        if not is_fact(func):
            self.see((args, kwargs))
        return func(*args, **(kwargs or {}))

    def add(self, path: str, x: Tensor) -> None:
        """Records the input of the module ``path`` after the module has run."""
        self._inputs.setdefault(_memory(x), []).append(path)
        self._kept.append(x)

    def see(self, tree: Any) -> None:
        """Checks the tensors in ``tree``, which are read now, against the recorded inputs."""
        for leaf in pytree.tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self.read_again.update(self._inputs.get(_memory(leaf), ()))


class _OutOfPlace:
    """Runs a module on a copy of its input."""

    def __init__(self, path: str, original: OriginalForward, watch: _Watch) -> None:
        self._path = path
        self._original = original
        self._watch = watch

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        with without_torch_function():
            copy = x.clone()
        result = self._original(copy, *args, **kwargs)
        self._watch.add(self._path, x)
        return result


@contextlib.contextmanager
def _out_of_place(modules: Mapping[str, nn.Module], watch: _Watch) -> Iterator[None]:
    originals = {path: OriginalForward(module) for path, module in modules.items()}
    try:
        for path, module in modules.items():
            replace_forward(module, _OutOfPlace(path, originals[path], watch))
        yield
    finally:
        for original in originals.values():
            original.restore()


def _memory(x: Tensor) -> int:
    with without_torch_function():
        return int(x.untyped_storage()._cdata) if x.layout is torch.strided and x.numel() else -1
