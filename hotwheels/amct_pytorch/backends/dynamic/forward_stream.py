"""ForwardStream: the user's forward, run up to each weighted layer, with float and with quantized layers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...quantizers.distributed import maximum
from ..batches.batch_store import BatchStore, copied
from ..batches.example import Example
from ..batches.outputs import output_tensors
from ..layers.layer_container import keeping_inputs, layers_of
from ..layers.layer_step import Call, LayerStep
from .forwards import original_forwards, replacement_of
from .session.mode_switch import ModeSwitch
from .session.session_forward import SessionForward

_FLOAT, _QUANTIZED = False, True


class _Reached(BaseException):
    """Ends a forward at the layer of interest; no Exception, so that the user's handlers do not catch it."""


class ForwardStream:
    """Stops at each weighted layer of a model with a session, with the layer's inputs in both networks.

    The float network runs once per batch; its layers' inputs are in a `BatchStore`, which moves values beyond its limit
    to disk. The quantized network runs once per batch and layer, up to that layer, since the user's forward is code and
    no graph: so the inputs are those that the forward really computes, with the layers in front refined.
    """

    def __init__(self, model: nn.Module) -> None:
        """Uses a copy of ``model`` with its present weights as the float network."""
        self._model = model
        self._reference = copy.deepcopy(model)

    @torch.no_grad()
    def outputs(self, batch: tuple[Any, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        """Returns the tensors that the model, or the copy of it as it was, gives for ``batch`` in ``mode``."""
        with original_forwards(self._model):
            example = Example.of(batch, self._model.forward)
        model = self._model if is_refined else self._reference
        with self._running(), keeping_inputs(layers_of(self._reference).values()), _switch_of(model).set_to(mode):
            return output_tensors(_run(model, example))

    @torch.no_grad()
    def walk(self, batches: Sequence[tuple[Any, ...]], visit: Callable[[LayerStep], None]) -> None:
        """Calls ``visit`` with each weighted layer, in the order of the example forward."""
        with original_forwards(self._model):
            examples = [Example.of(batch, self._model.forward) for batch in batches]
        with self._running(), BatchStore(len(examples)) as store:
            counts = self._run_float(examples, store)
            references = _weighted(self._reference)
            for name, layer in _weighted(self._model).items():
                obstacle = _obstacle([count[name] for count in counts])
                reached = [] if obstacle else self._run_quantized(layer, examples, store)
                visit(LayerStep(layer, references[name], _calls(name, reached, store), obstacle))
                store.drop([name])

    def _run_float(self, examples: Sequence[Example], store: BatchStore) -> list[dict[str, int]]:
        """Keeps the arguments of each layer's first call; returns, per batch, how often each layer was called."""
        counts: list[dict[str, int]] = []
        for index, example in enumerate(examples):
            counts.append(dict.fromkeys(_weighted(self._reference), 0))

            def note(layer: QuantizedLayer, call: Call, index: int = index) -> None:
                if not counts[index][layer.name]:
                    store.put(index, _FLOAT, layer.name, copied(call))  # a copy, since the forward goes on
                counts[index][layer.name] += 1

            with _hooked(_weighted(self._reference).values(), note):
                _run(self._reference, example)
        return counts

    def _run_quantized(self, layer: QuantizedLayer, examples: Sequence[Example], store: BatchStore) -> list[int]:
        """Keeps the arguments of the layer's call; returns the numbers of the batches that call it in both networks."""
        reached: list[int] = []
        for index, example in enumerate(examples):

            def stop(layer: QuantizedLayer, call: Call, index: int = index) -> None:
                store.put(index, _QUANTIZED, layer.name, call)
                reached.append(index)
                raise _Reached

            with _hooked([layer], stop), contextlib.suppress(_Reached):
                _run(self._model, example)
        return [index for index in reached if store.has(index, _FLOAT, layer.name)]

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        flags = [(module, module.training) for module in self._model.modules()]
        layers = layers_of(self._model)
        modes = [(layer, layer.mode) for layer in layers.values()]
        self._model.eval()
        self._reference.eval()
        for layer in layers.values():
            layer.mode = Mode.FAKE_QUANT
        for layer in layers_of(self._reference).values():
            layer.mode = Mode.FLOAT
        try:
            with (
                _switch_of(self._model).set_to(Mode.FAKE_QUANT),
                _switch_of(self._reference).set_to(Mode.FLOAT),
                keeping_inputs(layers.values()),
            ):
                yield
        finally:
            for layer, mode in modes:
                layer.mode = mode
            for module, flag in flags:
                module.training = flag


def _run(model: nn.Module, example: Example) -> Any:
    args, kwargs = copied((example.args, dict(example.kwargs)))
    return model(*args, **kwargs)


@contextlib.contextmanager
def _hooked(layers: Iterable[QuantizedLayer], hook: Callable[[QuantizedLayer, Call], None]) -> Iterator[None]:
    """Returns a context in which ``hook`` gets the arguments of each call of ``layers`` in front of the call."""

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, QuantizedLayer)
        hook(layer, (args, kwargs))

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weighted(model: nn.Module) -> dict[str, QuantizedLayer]:
    return {name: layer for name, layer in layers_of(model).items() if layer.weighted is not None}


def _switch_of(model: nn.Module) -> ModeSwitch:
    forward = replacement_of(model)
    assert isinstance(forward, SessionForward)
    return forward.switch


def _calls(name: str, batches: Sequence[int], store: BatchStore) -> Callable[[], Iterator[tuple[Call, Call]]]:
    def calls() -> Iterator[tuple[Call, Call]]:
        for index in batches:
            yield store.get(index, _FLOAT, name), store.get(index, _QUANTIZED, name)

    return calls


def _obstacle(counts: Sequence[int]) -> str | None:
    """Returns why a layer that each batch calls so often cannot be refined; the same on every process."""
    is_missed, is_repeated = maximum(torch.tensor([not any(counts), any(one > 1 for one in counts)]).float()).tolist()
    if is_repeated:
        return "its module is called several times in a forward"
    return "the data does not reach it" if is_missed else None
