"""Refining a whole model: the methods of each layer, the loop over the layers, its progress and its resumption."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import torch
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
from .refinement import LayerRefiner, RefinedLayer

_log = get_logger(__name__)
Methods = str | Sequence[str] | Mapping[str, str | Sequence[str] | None]


@dataclasses.dataclass(frozen=True)
class Refinement:
    """The result of `refine`.

    Attributes:
      layers: One entry per weighted layer, in the order of execution.
      cut_addends: The additions in front of a ReLU of which a range was cut; none on the dynamic path.
    """

    layers: tuple[RefinedLayer, ...]
    cut_addends: tuple[str, ...] = ()

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


class Stream(Protocol):
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
) -> Refinement:
    """Refines the layers of a calibrated model in place; see `api.refine.refine`.

    ``when_refined`` is called with each layer that has changed.
    """
    layers = {name: one for name, one in model_layers.items() if one.weighted is not None}
    choice = _Choice(methods, layers)
    refiner = LayerRefiner(choice.wanted, seed)
    saved = None if resume_dir is None else _SavedLayers(resume_dir, f"{seed} {choice}")
    results: list[RefinedLayer] = []

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
        bar.update()

    with tqdm(total=len(layers), desc="refine", unit="layer", disable=not progress) as bar:
        stream.walk(batches, visit)
    return Refinement(tuple(results))


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
    cut = cut_addends(model)
    layers = model.quantized_layers
    found = refine_layers(
        GraphStream(model), layers, batches, methods, seed=seed, progress=progress, resume_dir=resume_dir
    )
    return dataclasses.replace(found, cut_addends=cut)


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


class _SavedLayers:
    """The layers that an interrupted call has refined, one file each."""

    def __init__(self, folder: Path, settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = settings

    def save(self, layer: QuantizedLayer, result: RefinedLayer) -> None:
        file = self._file(layer.name)
        part = file.with_suffix(".part")
        torch.save({"settings": self._settings, "result": dataclasses.asdict(result), **_state(layer)}, part)
        part.replace(file)

    def load(self, layer: QuantizedLayer) -> RefinedLayer | None:
        """Loads the saved state into ``layer`` and returns its result; None if the layer was not saved.

        Raises:
          ConfigError: The file was written with other settings.
        """
        file = self._file(layer.name)
        if not file.exists():
            return None
        found = torch.load(file, weights_only=True, map_location=layer.non_float_inputs.device)
        if found["settings"] != self._settings:
            raise ConfigError(
                f"refine: '{file}' was written by a call with other methods or another seed. Pass an empty resume_dir."
            )
        with torch.no_grad():
            for name, value in _state(layer).items():
                for key, tensor in value.items():
                    tensor.copy_(found[name][key])
        result = found["result"]
        return RefinedLayer(result["name"], tuple(result["methods"]), tuple(map(tuple, result["skipped"])))

    def _file(self, layer: str) -> Path:
        return self._folder / f"{hashlib.sha256(layer.encode()).hexdigest()[:16]}.pt"


def _state(layer: QuantizedLayer) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the tensors of a layer that refinement may change."""
    assert layer.weighted is not None
    op = layer.weighted.op
    bias = op.stored_bias()
    own = {"weight": op.stored_weight, "bias": None if bias is None else bias[0]}
    return {
        "own": {name: tensor.detach() for name, tensor in own.items() if tensor is not None},
        "quantizer": dict(layer.weighted.quantizer.state_dict()),
        "shift": {} if layer.shift_bit is None else {"bits": layer.shift_bit},
    }
