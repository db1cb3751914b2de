"""Refining a whole model: the methods of each layer, the loop over the layers, its progress and its resumption."""

from __future__ import annotations

import collections
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from ...backends.fx.addend_ranges import cut_addends
from ...backends.fx.graph_stream import GraphStream
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.layers.layer_step import LayerStep
from ...config.arguments.unmatched import report_unmatched
from ...config.layers.refine_config import METHODS
from ...errors import ConfigError
from ...log import get_logger
from ...nn.quantized_layer import QuantizedLayer
from ..quantized import uncalibrated
from .network_check import Outputs, Part, take_back_losses
from .refinement import LayerRefiner, RefinedLayer
from .saved_layers import SavedLayers, layer_state

_log = get_logger(__name__)
_LOST = "taken back, since the error of held-out pictures at the outputs of the network rose"
Methods = str | Sequence[str] | Mapping[str, str | Sequence[str] | None]


@dataclasses.dataclass(frozen=True)
class Refinement:
    """The result of `refine`.

    Attributes:
      layers: One entry per weighted layer, in the order of execution.
      cut_addends: The additions in front of a ReLU of which a range was cut; none on the dynamic path.
      taken_back: Layers whose changes were taken back, since the error at the outputs of the network rose on held-out
        pictures.
    """

    layers: tuple[RefinedLayer, ...]
    cut_addends: tuple[str, ...] = ()
    taken_back: tuple[str, ...] = ()

    def summary(self) -> str:
        """Returns one sentence: how many layers have changed."""
        changed = sum(1 for one in self.layers if one.methods)
        return f"Refined {changed} of {len(self.layers)} weighted layers."

    def __str__(self) -> str:
        """Returns a line per layer: the methods applied, and why others were not."""
        cut = [f"{name}: range cut where the ReLU behind the sum gives 0" for name in self.cut_addends]
        layers = [
            f"{one.name}: {', '.join(one.methods) or 'unchanged'}"
            + "".join(f"; no {method}: {reason}" for method, reason in one.skipped)
            for one in self.layers
        ]
        return "\n".join(cut + layers)


class Stream(Outputs, Protocol):
    """The float and the quantized network of one model side by side."""

    def walk(self, batches: Sequence[tuple[Any, ...]], visit: Callable[[LayerStep], None]) -> None:
        """Calls ``visit`` with each weighted layer, when all layers in front of it were visited."""


def refine_layers(
    stream: Stream,
    model_layers: Mapping[str, QuantizedLayer],
    batches: Sequence[tuple[Any, ...]],
    methods: Methods,
    *,
    seed: int,
    progress: bool,
    resume_dir: Path | None,
    when_refined: Callable[[LayerStep], None] | None = None,
    ranges: Mapping[str, Part] | None = None,
) -> Refinement:
    """Refines the layers of a calibrated model in place; see `api.refine.refine`.

    ``when_refined`` is called with each layer that has changed; ``ranges`` of layers have been changed before.
    """
    layers = {name: one for name, one in model_layers.items() if one.weighted is not None}
    choice = _Choice(methods, layers)
    refiner = LayerRefiner(choice.wanted, seed)
    saved = None if resume_dir is None else SavedLayers(resume_dir, f"{seed} {choice}")
    results: list[RefinedLayer] = []
    parts = dict(ranges or {})

    def visit(step: LayerStep) -> None:
        done = None if saved is None else saved.load(step.layer)
        if done is None:
            done = refiner.refine(step)
            if done.methods and when_refined is not None:
                when_refined(step)
            if saved is not None:
                saved.save(step.layer, done)
        _log.debug("Refined layer '%s': %s.", done.name, ", ".join(done.methods) or "unchanged")
        results.append(done)
        if done.methods:
            states = layer_state(step.layer), layer_state(step.reference)
            parts[done.name] = [pair for group in states[0] for pair in _pairs(states[0][group], states[1][group])]
        bar.update()

    with tqdm(total=len(layers), desc="refine", unit="layer", disable=not progress) as bar:
        stream.walk(batches, visit)
    taken = take_back_losses(stream, batches, parts)
    return Refinement(
        tuple(_left_alone(one) if one.name in taken else one for one in results),
        taken_back=tuple(name for name in parts if name in taken),
    )


def _left_alone(layer: RefinedLayer) -> RefinedLayer:
    """Returns the result of a layer whose changes were taken back."""
    return RefinedLayer(layer.name, (), (*layer.skipped, *((method, _LOST) for method in layer.methods)))


def _pairs(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Part:
    return [(value, before[name]) for name, value in now.items()]


def refine_graph(
    model: QuantGraphModule,
    batches: Sequence[tuple[Any, ...]],
    methods: Methods,
    *,
    seed: int,
    progress: bool,
    resume_dir: Path | None,
) -> Refinement:
    """Refines a calibrated graph in place; see `refine_layers`. Ranges of addends are cut first."""
    stream = GraphStream(model)
    layers, before = model.quantized_layers, stream.reference.quantized_layers
    cut = cut_addends(model, layers)
    ranges = {name: _pairs(_state_of_data(layers[name]), _state_of_data(before[name])) for name in cut}
    found = refine_layers(
        stream, layers, batches, methods, seed=seed, progress=progress, resume_dir=resume_dir, ranges=ranges
    )
    return dataclasses.replace(found, cut_addends=tuple(name for name in cut if name not in found.taken_back))


def _state_of_data(layer: QuantizedLayer) -> dict[str, Tensor]:
    states = ((index, one.state_dict()) for index, one in enumerate(layer.activation))
    return {f"{index}.{name}": value for index, state in states for name, value in state.items()}


def refine_if_asked(model: QuantGraphModule) -> None:
    """Refines a calibrated graph once, with the kept calibration inputs, if its configuration requests that.

    Does nothing while a layer is not calibrated.
    """
    asked = None if model.origin is None else model.origin.refine
    if asked is None or not model.kept_batches or uncalibrated(model):
        return
    result = refine_graph(
        model, model.kept_batches, asked.methods, seed=asked.seed, progress=sys.stderr.isatty(), resume_dir=None
    )
    model.kept_batches.clear()
    _log.info("%s", result.summary())


class _Choice:
    """The methods chosen for each layer."""

    def __init__(self, methods: Methods, layers: Mapping[str, QuantizedLayer]) -> None:
        names_of = [methods] if isinstance(methods, str) else methods
        chosen = dict(names_of) if isinstance(names_of, Mapping) else dict.fromkeys(names_of)
        for method, names in chosen.items():
            if method not in METHODS:
                raise ConfigError(f"refine: unknown method '{method}'. Methods: {', '.join(METHODS)}.")
            if not isinstance(names, (str, Sequence, Set, type(None))):
                raise TypeError(
                    f"refine: methods['{method}'] must be a layer, a type, a list of them or None, got"
                    f" {type(names).__name__}."
                )
        self._chosen = {
            method: None if names is None else frozenset([names] if isinstance(names, str) else names)
            for method, names in chosen.items()
        }
        self._types = {name: (one.op.name, *_classes(one)) for name, one in layers.items()}
        known = set(layers) | {kind for kinds in self._types.values() for kind in kinds}
        report_unmatched(
            sorted({name for names in self._chosen.values() for name in names or ()} - known),
            "refine: '{}' is neither a weighted layer of the model nor the type of one.".format,
        )
        self._shared = _shared_weights(layers)

    def __str__(self) -> str:
        return json.dumps({method: names and sorted(names) for method, names in self._chosen.items()})

    def wanted(self, layer: str, method: str) -> bool | str:
        """Returns whether ``layer`` gets ``method``; the reason, as a text, if the method cannot be applied."""
        if method not in self._chosen:
            return False
        names = self._chosen[method]
        if names is not None and not names & {layer, *self._types[layer]}:
            return False
        return f"its weight is shared with layer '{self._shared[layer]}'" if layer in self._shared else True


def _classes(layer: QuantizedLayer) -> tuple[str, ...]:
    """Returns the names of the classes of the layer's module: the user's, and the class that computes."""
    assert layer.weighted is not None
    return type(layer.call.module).__name__, type(layer.weighted.op.module).__name__


def _shared_weights(layers: Mapping[str, QuantizedLayer]) -> dict[str, str]:
    """Returns the layers that share their weight, each with the name of another layer with that weight."""
    owners: dict[int, list[str]] = collections.defaultdict(list)
    for name, layer in layers.items():
        assert layer.weighted is not None
        stored = layer.weighted.op.stored_weight
        owners[id(layer.weighted.op.module if stored is None else stored)].append(name)
    return {
        name: next(one for one in names if one != name) for names in owners.values() if len(names) > 1 for name in names
    }
