"""Advice on quantized models: logged when a model is made, and again when it is calibrated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...backends.fx.interpreters import NodeResult
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.read.model_advice import idle_slices
from ...core.params import QuantParams
from ...core.search.matmul_swap import is_swappable, sqnr_as_is, sqnr_swapped
from ...log import get_logger
from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...ops.desc import Role
from ...plan.advice import Advice, AdviceRule
from ...plan.calibrated_advice import WIDE_BITS, CalibratedInput, SwapMeasured, calibrated_advice
from ...plan.configured_graph import LayerInput
from ...quantizers.base import ActivationQuantizer
from ..kept_state import copies_of, kept_state
from ..quantized import uncalibrated

_log = get_logger(__name__)


def log_advice(advice: Iterable[Advice]) -> None:
    """Logs each rule in one line: as WARNING if the converter may refuse the model, else as INFO.

    The line is the first piece of advice, with the layers of the others.
    """
    found: dict[AdviceRule, list[Advice]] = {}
    for one in advice:
        found.setdefault(one.rule, []).append(one)
    for rule, (first, *others) in found.items():
        log = _log.warning if rule.is_about_converter else _log.info
        likewise = ""
        if others:
            names = "; ".join(", ".join(f"'{layer}'" for layer in one.layers) for one in others)
            likewise = f" Likewise, with the numbers that amct.check_model(quant_model) prints: {names}."
        log("%s%s", first, likewise)


def log_calibrated_advice(quantized: QuantGraphModule) -> None:
    """Logs the advice that needs calibration, once per model; nothing before all layers are calibrated."""
    origin = quantized.origin
    if origin is None or origin.is_advised or uncalibrated(quantized):
        return
    origin.is_advised = True
    log_advice(calibrated_advice(origin.model, _calibrated_inputs(quantized)))


def all_advice(quantized: QuantGraphModule, inputs: tuple[Any, ...] | None) -> tuple[Advice, ...]:
    """Returns all advice on a calibrated model; with ``inputs``, one forward measures more."""
    if quantized.origin is None:
        return ()
    model, advice, found = quantized.origin.model, quantized.origin.advice, _calibrated_inputs(quantized)
    if inputs is None:
        return (*advice, *calibrated_advice(model, found))
    watch = _Watch()
    with kept_state(quantized):
        watch.run(quantized, inputs)
    return (*advice, *idle_slices(quantized, watch.shapes), *calibrated_advice(model, found, watch.swaps))


def _calibrated_inputs(quantized: QuantGraphModule) -> dict[LayerInput, CalibratedInput]:
    return {
        LayerInput(name, index): _calibrated_input(quantizer.params(), layer.extremes(index))
        for name, layer in quantized.quantized_layers.items()
        for index, quantizer in _quantizers(layer)
    }


def _quantizers(layer: QuantizedLayer) -> list[tuple[int, ActivationQuantizer]]:
    absent = layer.non_float_inputs.tolist()
    return [(index, one) for index, one in enumerate(layer.activation) if not absent[index]]


def _calibrated_input(params: QuantParams, extremes: tuple[float, float] | None) -> CalibratedInput:
    """Returns the grid with the range of the values seen, or with its own ends, which are wider if it is symmetric."""
    scale, offset = float(params.scale), int(params.offset)
    ends = (params.spec.qmin - offset) * scale, (params.spec.qmax - offset) * scale
    low, high = ends if extremes is None else (min(0.0, extremes[0]), max(0.0, extremes[1]))
    return CalibratedInput(scale=scale, offset=offset, num_bits=params.num_bits, low=low, high=high)


class _Watch:
    """Measures, in one float forward, the shapes of all tensors and the effect of a swap on each matmul.

    A matmul is measured when it runs, so that no tensor is kept longer than its layer needs.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, torch.Size] = {}
        self.swaps: dict[str, SwapMeasured] = {}

    @torch.no_grad()
    def run(self, quantized: QuantGraphModule, inputs: tuple[Any, ...]) -> None:
        quantized.mode = Mode.FLOAT
        matmuls = [one for one in quantized.quantized_layers.values() if one.op.role is Role.MATMUL]
        hooks = [one.register_forward_pre_hook(self._measure, with_kwargs=True) for one in matmuls]
        quantized.watch_next_forward(self._note_shape)
        try:
            quantized.eval()(*copies_of(inputs))
        finally:
            for hook in hooks:
                hook.remove()

    def _note_shape(self, node: NodeResult) -> None:
        if isinstance(node.value, Tensor):
            self.shapes[node.name] = node.value.shape

    def _measure(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, QuantizedLayer)
        first, second = layer.call.inputs(args, kwargs)
        grids = [quantizer.params() for _, quantizer in _quantizers(layer)]
        if len(grids) != 2 or not is_swappable(first, second):
            return
        self.swaps[layer.name] = SwapMeasured(
            as_is=sqnr_as_is(first, second, (grids[0], grids[1])), swapped=sqnr_swapped(first, second, WIDE_BITS)
        )
