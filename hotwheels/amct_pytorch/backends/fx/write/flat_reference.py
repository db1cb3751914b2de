"""FlatReference: the results of a flat float graph on its example, which the ONNX model must reproduce."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ....torch_private import pytree
from ...batches.float_arrays import array_of, resized, shaken
from ...batches.outputs import output_tensors

_SEED = 1  # any seed that draws other random numbers than the run it is compared with


class FlatReference:
    """Runs ``module`` on ``arguments``.

    Args:
      module: The flat float graph.
      arguments: The arguments of the graph that hold tensors.
      value_names: Name, in the ONNX model, of the first result of each node that has one there.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        arguments: tuple[Any, ...],
        value_names: Mapping[str, str],
    ) -> None:
        """Runs nothing yet."""
        self._module = module
        self._arguments = arguments
        self._value_names = value_names

    def resized(self, sizes: Mapping[tuple[int, int], int]) -> FlatReference:
        """Returns the same on inputs of other sizes, by number of the ONNX model's input and axis."""
        return FlatReference(self._module, resized(self._arguments, sizes), self._value_names)

    def tensors(self) -> list[NDArray[Any]]:
        """Returns the tensors of the example in the order of the ONNX model's inputs."""
        return [array_of(leaf) for leaf in _tensors(self._arguments)]

    def outputs(self) -> list[NDArray[Any]]:
        """Returns the outputs in the order of the ONNX model's outputs."""
        return self._run(torch.clone)

    def rounding(self) -> list[NDArray[Any]]:
        """Returns the outputs on inputs that differ in their last bits, and with other random numbers."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(_SEED)
            return self._run(shaken)

    def inner(self) -> list[tuple[str, str, NDArray[Any]]]:
        """Returns the first result of each node, in order."""
        watching = _Watching(self._module, self._value_names)
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            watching.run(*self._arguments_by(torch.clone))
        return watching.found

    def _run(self, change: Callable[[Tensor], Tensor]) -> list[NDArray[Any]]:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            return [array_of(one) for one in output_tensors(self._module(*self._arguments_by(change)))]

    def _arguments_by(self, change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        changed: tuple[Any, ...] = pytree.tree_map_only(Tensor, change, self._arguments)
        return changed


class _Watching(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, value_names: Mapping[str, str]) -> None:
        super().__init__(module)
        self._value_names = value_names
        self.found: list[tuple[str, str, NDArray[Any]]] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        tensors = _tensors(result)
        if n.name in self._value_names and tensors:
            self.found.append((self._value_names[n.name], f"the result of '{n.name}'", array_of(tensors[0])))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
