"""A forward of calibration: one at a time in the process, undone on an error, with a WARNING in training mode."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ...log import get_logger, one_line_per_cause
from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...nn.shared_input import forget_results
from ...quantizers.meeting import report_failure
from ...quantizers.module_walk import all_modules
from ...quantizers.quantizer import Quantizer
from ...quantizers.rollback import all_or_nothing
from ...torch_private import BatchNorm, Dropout
from .layer_container import LayerContainer, layers_by_name

_log = get_logger(__name__)
_lock = threading.RLock()
_ESTIMATED = 16  # layers whose gain by refinement is estimated; the log tells the median
_GOLDEN = 0.618034
_is_refined_next = contextvars.ContextVar("is_refined_next", default=False)


@contextlib.contextmanager
def refinement_follows() -> Iterator[None]:
    """Returns a context in which the log does not recommend refining, because the caller refines next."""
    token = _is_refined_next.set(True)
    try:
        yield
    finally:
        _is_refined_next.reset(token)


@contextlib.contextmanager
def calibration_forward(
    model: nn.Module, layers: LayerContainer, objects: Iterable[Any] = (), *, is_refined_next: bool = False
) -> Iterator[None]:
    """Returns a context in which ``model`` runs one forward that observes.

    Threads that calibrate take turns. If the forward fails, the state of all quantizers is restored, so repeating the
    forward gives the grids of an undisturbed run.

    Args:
      model: The quantized model.
      layers: Its layers.
      objects: Further objects whose attributes the forward changes.
      is_refined_next: Whether the configuration asks for refinement, so that the log need not recommend it.
    """
    with _lock:
        in_training = [one for one in all_modules(model) if one.training]
        if any(map(_depends_on_training, in_training)):
            _warn_of_training_mode(model, layers)
        quantizers = [one for one in all_modules(layers) if isinstance(one, Quantizer) and not one.is_finished]
        norms = [one for one in in_training if isinstance(one, BatchNorm)] if quantizers else []
        waiting = {name: layer for name, layer in layers_by_name(layers).items() if not layer.is_calibrated}
        with all_or_nothing(quantizers, [*layers.children(), *norms], objects):
            try:
                _choose_estimated(waiting.values(), is_refined_next or _is_refined_next.get())
                yield
                _tell_calibrated(layers_by_name(layers), waiting)
            except BaseException as error:
                report_failure(error)
                raise


@contextlib.contextmanager
def any_forward() -> Iterator[None]:
    """Returns a context for every forward of a quantized model: shared results are dropped, warnings told at exit."""
    try:
        with one_line_per_cause():
            yield
    finally:
        forget_results()


def warn_of_evaluation_in_training_mode(model: nn.Module, layers: LayerContainer) -> None:
    """Warns once if a forward without gradients, so no step of training, is computed as in training.

    It depends on its batch, and is not what the files compute.
    """
    if not model.training or layers._has_warned_of_evaluation or torch.is_grad_enabled():
        return
    named = next((pair for pair in model.named_modules() if _depends_on_training(pair[1])), None)
    if named is None:
        return
    layers._has_warned_of_evaluation = True
    _log.warning(
        "The quantized model runs in training mode without gradients: %s '%s' works on the batch as in training, so the"
        " outputs are not those of the files. Call model.eval() to evaluate; if statistics are renewed, this is right.",
        type(named[1]).__name__,
        named[0],
    )


def _choose_estimated(layers: Iterable[QuantizedLayer], is_refined_next: bool) -> None:
    """Marks the layers that estimate what `amct.refine` gains: some of them, since each runs a part of itself again.

    None if the log does not tell it: if refinement follows anyway, or stages are not logged.
    """
    weighted = [layer for layer in layers if layer.weighted is not None]
    count = min(len(weighted), _ESTIMATED) if _log.tells_stages and not is_refined_next else 0
    # One in each of `count` equal parts of the network, each time at another place of the part: blocks that repeat
    # would put layers at equal distances into the same place of every block.
    places = (int((i + i * _GOLDEN % 1) * len(weighted) / count) for i in range(count))
    chosen = {weighted[place] for place in places}
    for layer in weighted:
        layer.estimates_gain = layer in chosen


def _tell_calibrated(layers: Mapping[str, QuantizedLayer], waiting: Mapping[str, QuantizedLayer]) -> None:
    """Logs each of the ``waiting`` layers whose grids the forward has completed, and the end of the calibration."""
    new = {name: layer for name, layer in layers.items() if name in waiting and layer.is_calibrated}
    for name, layer in new.items():
        _log.debug("Layer '%s': calibrated, %s.", name, _Grids(layer))
    if new and len(new) == len(waiting):
        _log.info("Calibrated: all %d layers have their grids.%s", len(layers), _worth_of_refining(new.values()))


class _Grids:
    """The grids of the inputs of a layer as a text, which is made only if the log prints it."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self._layer = layer

    def __str__(self) -> str:
        return "; ".join(f"input {index} {one.extra_repr()}" for index, one in enumerate(self._layer.activation))


def _worth_of_refining(layers: Iterable[QuantizedLayer]) -> str:
    """Returns a sentence on what `amct.refine` would gain in ``layers``; empty if that was not measured."""
    gains = [layer.refine_gain for layer in layers if layer.refine_gain is not None]
    if not gains:
        return ""
    return (
        f" amct.refine(model, data) takes about {np.median(gains):.1f} dB off the error that rounded weights make at"
        f" the output of a single layer (by the means of channels alone; median of {len(gains)} layers)."
    )


def _warn_of_training_mode(model: nn.Module, layers: LayerContainer) -> None:
    """Warns once if a BatchNorm or a Dropout in training mode changes the calibrated ranges."""
    if layers._has_warned or not _observes_only(layers):
        return
    named = next((pair for pair in model.named_modules() if _depends_on_training(pair[1])), None)
    if named is None:
        return
    layers._has_warned = True
    name, module = named
    effect = "changes its statistics" if isinstance(module, BatchNorm) else "drops values"
    _log.warning(
        "The model is calibrated in training mode: %s '%s' %s in every batch, so the ranges are not those of the model"
        " that is deployed. Call model.eval() before the calibration.",
        type(module).__name__,
        name,
        effect,
    )


def _observes_only(layers: LayerContainer) -> bool:
    return any(isinstance(one, QuantizedLayer) and one.mode is Mode.CALIBRATION for one in layers.children())


def _depends_on_training(module: nn.Module) -> bool:
    if not module.training:
        return False
    return isinstance(module, BatchNorm) or (isinstance(module, Dropout) and module.p > 0)
