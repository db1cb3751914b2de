"""ComputedTensor: a weight or bias that a model computes from its parameters and buffers each time it is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..torch_private import pytree


class Tree:
    """The model whose parameters, buffers and modules are looked up by path.

    A lookup finds what the model holds at that moment: after a move to another device, after
    ``load_state_dict(assign=True)``, and inside ``torch.func.functional_call``.

    Attributes:
      root: The model. It is not pickled: the owner of the model sets ``root`` after unpickling.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root

    def find(self, path: str) -> Any:
        """Returns the module, parameter or buffer at ``path``."""
        found: Any = self.root
        for name in path.split("."):
            found = getattr(found, name)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Tree:
        """Returns the tree of the copied model; this tree if the model itself is not being copied."""
        root = memo.get(id(self.root))
        if root is None:
            return self
        memo[id(self)] = copied = Tree(root)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {"root": None}


@dataclasses.dataclass(frozen=True)
class Ref:
    """Stands for the result of step ``index`` among the arguments of a later step."""

    index: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One call, or one lookup.

    Attributes:
      target: The function to call, or the path of a parameter, buffer or module in the tree.
      is_call: Whether the target is called (a function, or the module at that path) or only looked up.
      args: Positional arguments, with a `Ref` for each result of an earlier step.
      kwargs: Keyword arguments, likewise.
    """

    target: Callable[..., Any] | str
    is_call: bool = False
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class ComputedTensor:
    """A tensor as the steps that compute it; the result is differentiable with respect to the parameters.

    Attributes:
      name: Name of the graph node whose result the tensor is.
      tree: The model in which the steps look up parameters, buffers and modules.
      steps: In order; the last one gives the result.
    """

    name: str
    tree: Tree
    steps: tuple[Step, ...]

    def __call__(self) -> Tensor:
        """Computes the tensor from the present parameters and buffers."""
        results: list[Any] = []
        for step in self.steps:
            results.append(self._run(step, results))
        result: Tensor = results[-1]
        return result

    @torch.no_grad()
    def rank(self) -> int:
        """Returns the number of dimensions of the tensor."""
        return int(self().dim())

    @torch.no_grad()
    def is_spread(self, rule: Callable[[tuple[int, ...], int], bool], channels: int) -> bool:
        """Whether the tensor is a floating tensor whose shape passes ``rule(shape, channels)``."""
        value = self()
        return isinstance(value, Tensor) and value.is_floating_point() and rule(tuple(value.shape), channels)

    def then(self, function: Callable[..., Any], *args: Any) -> ComputedTensor:
        """Returns the tensor ``function(self(), *args)``."""
        step = Step(function, True, (Ref(len(self.steps) - 1), *args))
        return ComputedTensor(f"{self.name}.{function.__name__}", self.tree, (*self.steps, step))

    def _run(self, step: Step, results: list[Any]) -> Any:
        target = self.tree.find(step.target) if isinstance(step.target, str) else step.target
        if not step.is_call:
            return target
        args, kwargs = pytree.tree_map(lambda leaf: _resolved(leaf, results), (step.args, step.kwargs))
        return target(*args, **kwargs)


def _resolved(leaf: Any, results: list[Any]) -> Any:
    if isinstance(leaf, slice):  # part of an index; pytree does not look into slices
        return slice(*(_resolved(one, results) for one in (leaf.start, leaf.stop, leaf.step)))
    return results[leaf.index] if isinstance(leaf, Ref) else leaf
