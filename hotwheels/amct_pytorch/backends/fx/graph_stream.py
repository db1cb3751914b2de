"""GraphStream: the float and the quantized network side by side, node by node, on all batches of some data."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ...nn.mode import Mode, forcing
from ...nn.quantized_layer import QuantizedLayer
from ..batches.batch_store import BatchStore, copied
from ..batches.outputs import output_tensors
from ..layers.layer_step import Call, LayerStep
from .activation_behind import activation_behind
from .quant_graph_module import QuantGraphModule
from .read.called import callable_of


class GraphStream:
    """Walks a quantized graph once and stops at each weighted layer, with the layer's inputs in both networks.

    Each node runs on every batch before the next node runs, so a change of a layer's weights affects all nodes behind
    the layer. Values that no later node reads are dropped; the others are in a `BatchStore`, which moves values beyond
    its limit to disk.
    """

    def __init__(self, model: QuantGraphModule) -> None:
        """Uses a copy of ``model`` with its present weights as the float network."""
        self._model = model
        self._reference = copy.deepcopy(model)
        self._last_use = _last_uses(model.graph)

    @property
    def reference(self) -> QuantGraphModule:
        """The copy of the model as it was."""
        return self._reference

    @torch.no_grad()
    def outputs(self, batch: tuple[Any, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        """Returns the tensors that the model, or the copy of it as it was, gives for ``batch`` in ``mode``."""
        model = self._model if is_refined else self._reference
        with _evaluating(model), model.keeping_inputs(), forcing(mode):
            return output_tensors(fx.Interpreter(model).run(*copied(batch)))

    @torch.no_grad()
    def walk(self, batches: Sequence[tuple[Any, ...]], visit: Callable[[LayerStep], None]) -> None:
        """Calls ``visit`` with each weighted layer, in graph order, before any node behind the layer runs."""
        with self._running(), BatchStore(len(batches)) as store:
            sides = {False: fx.Interpreter(self._reference), True: fx.Interpreter(self._model)}
            for node in self._model.graph.nodes:
                if node.op == "output":
                    break
                layer = callable_of(self._model, node) if node.op == "call_module" else None
                if isinstance(layer, QuantizedLayer) and layer.weighted is not None:
                    visit(self._step(node, layer, store))
                for index, batch in enumerate(batches):
                    for is_quantized, interpreter in sides.items():
                        read = functools.partial(store.get, index, is_quantized)
                        store.put(index, is_quantized, node.name, _value(node, interpreter, read, batch))
                store.drop(self._last_use.get(node, ()))

    def _step(self, node: fx.Node, layer: QuantizedLayer, store: BatchStore) -> LayerStep:
        reference = self._reference.get_submodule(str(node.target))
        assert isinstance(reference, QuantizedLayer)

        def calls() -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
            for index in range(store.batches):
                exact, quantized = (functools.partial(store.get, index, side) for side in (False, True))
                yield _arguments(node, exact), _arguments(node, quantized)

        return LayerStep(layer, reference, calls, activation=activation_behind(self._reference, node))

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        mode = self._model.mode
        self._model.mode, self._reference.mode = Mode.FAKE_QUANT, Mode.FLOAT
        try:
            with _evaluating(self._model), _evaluating(self._reference), self._model.keeping_inputs():
                yield
        finally:
            self._model.mode = mode


@contextlib.contextmanager
def _evaluating(model: QuantGraphModule) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _value(node: fx.Node, interpreter: fx.Interpreter, read: Callable[[str], Any], batch: tuple[Any, ...]) -> Any:
    if node.op == "placeholder":
        return _placeholder(node, batch)
    args, kwargs = _arguments(node, read)
    return getattr(interpreter, node.op)(node.target, args, kwargs)


def _placeholder(node: fx.Node, batch: tuple[Any, ...]) -> Any:
    names = [one for one in node.graph.nodes if one.op == "placeholder"]
    index = names.index(node)
    if index < len(batch):
        return batch[index]
    return node.args[0] if node.args else None


def _arguments(node: fx.Node, read: Callable[[str], Any]) -> Call:
    return fx.map_arg((node.args, node.kwargs), lambda one: read(one.name))


def _last_uses(graph: fx.Graph) -> dict[fx.Node, tuple[str, ...]]:
    """Returns, for each node, the names of the values that no later node reads."""
    dropped: dict[fx.Node, list[str]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for read in (node, *node.all_input_nodes) if not node.users else node.all_input_nodes:
            if read not in seen:
                seen.add(read)
                dropped.setdefault(node, []).append(read.name)
    return {node: tuple(names) for node, names in dropped.items()}
