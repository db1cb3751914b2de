"""FloatForward: the results of the user's float model on its example, which the exported model must reproduce."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....nn.call import LayerCall
from ....onnx_io.node_access import operand
from ....torch_private import pytree
from ...batches.float_arrays import array_of, resized, shaken
from ...batches.outputs import output_tensors
from ...user_model.model_state import unchanged
from ..forwards import call_name
from .export import MarkedExport
from .float_model import Fold, added_name

_InnerValue: TypeAlias = "tuple[str, str, NDArray[Any]]"  # name in the ONNX model, description, expected value


class FloatForward:
    """Runs ``model`` in eval mode on the positional ``inputs``; the state of the model is restored."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        export: MarkedExport,
        modules: Mapping[str, nn.Module],
        folds: Collection[Fold],
        known: Sequence[Tensor] | None = None,
    ) -> None:
        """Runs nothing yet.

        Args:
          model: The float model.
          inputs: Its positional arguments.
          export: The places of the calls of ``modules`` in the ONNX model.
          modules: Modules that are single operations, by path.
          folds: The BatchNorms that are folded into convolutions in the ONNX model.
          known: The outputs on ``inputs`` if they are known, so that `outputs` needs no forward.
        """
        self._known = known
        self._model = model
        self._inputs = inputs
        self._export = export
        self._modules = modules
        calls = [call for fold in folds for call in fold.calls]
        # In the file, the node of a layer gives the result of the last call folded into it, and reads what the first
        # of them reads.
        self._last = {call.behind[-1]: call.layer for call in calls if call.behind}
        self._other_inputs = {call.layer for call in calls if call.front}

    def resized(self, sizes: Mapping[tuple[int, int], int]) -> FloatForward:
        """Returns the same forward on inputs of other sizes, by number of the ONNX model's input and axis."""
        other = copy.copy(self)
        other._inputs, other._known = resized(self._inputs, sizes, self._export.unread), None
        return other

    def tensors(self) -> list[NDArray[Any]]:
        """Returns the tensors of the example in the order of the ONNX model's inputs."""
        tensors = [leaf for leaf in pytree.tree_leaves(self._inputs) if isinstance(leaf, Tensor)]
        return [array_of(one) for at, one in enumerate(tensors) if at not in self._export.unread]

    def outputs(self) -> list[NDArray[Any]]:
        """Returns the outputs in the order of the ONNX model's outputs."""
        return self._run(_same) if self._known is None else [array_of(one) for one in self._known]

    def rounding(self) -> list[NDArray[Any]]:
        """Returns the outputs on inputs that differ from the example in their last bits."""
        return self._run(shaken)

    def inner(self) -> list[_InnerValue]:
        """Returns inputs and results of the candidates' calls, in the order of the calls."""
        found: list[_InnerValue] = []
        with _watched(self._modules, lambda path, number, *call: found.extend(self._named(path, number, *call))):
            self._run(_same)
        return found

    def _run(self, change: Callable[[Tensor], Tensor]) -> list[NDArray[Any]]:
        inputs = pytree.tree_map_only(Tensor, change, self._inputs)
        with unchanged(self._model), torch.no_grad():
            result = self._model.eval()(*inputs)
        return [array_of(one) for one in output_tensors(result)]

    def _named(
        self, path: str, number: int, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Iterator[_InnerValue]:
        """Yields the inputs and the first result of one call."""
        nodes = {str(node.name): node for node in self._export.model.graph}
        name = call_name(path, number)
        site = self._export.sites.get(name)
        if site is None:
            return
        values = LayerCall(self._modules[path], self._export.edges[name]).inputs(args, kwargs)
        for index, value in enumerate(values if name not in self._other_inputs else ()):
            for node, at in site.inputs.get(index, ())[:1]:
                if node in nodes:
                    name_there = str(operand(nodes[node], at).name)
                    yield name_there, f"input {index} of layer '{name}'", array_of(value)
        first = result[0] if isinstance(result, (list, tuple)) and result else result
        maker = self._maker(name, nodes)
        if isinstance(first, Tensor) and maker is not None and len(maker.shape or ()) == first.dim():
            yield str(maker.name), f"the result of layer '{name}'", array_of(first)

    def _maker(self, name: str, nodes: Mapping[str, ir.Node]) -> ir.Value | None:
        """Returns the value in the file with the result of the call ``name``; None if the file has none."""
        if name in self._last.values():
            return None
        layer = self._last.get(name, name)
        for last in (added_name(layer), self._export.sites[layer].nodes[-1]):
            if last in nodes:
                return nodes[last].outputs[0]
        return None


def _same(x: Tensor) -> Tensor:
    return x.clone()


@contextlib.contextmanager
def _watched(modules: Mapping[str, nn.Module], see: Callable[..., None]) -> Iterator[None]:
    """Calls ``see(path, number, args, kwargs, result)`` for each call of a module, with copies of its arguments."""
    given: dict[str, list[Any]] = {path: [] for path in modules}
    handles = []
    for path, module in modules.items():

        def before(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            given[path].append(pytree.tree_map_only(Tensor, _same, (args, kwargs)))

        def after(_: nn.Module, __: Any, result: Any, path: str = path) -> None:
            see(path, len(given[path]) - 1, *given[path][-1], result)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
