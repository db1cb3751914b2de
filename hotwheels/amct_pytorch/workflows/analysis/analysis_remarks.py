"""What the report says beside the figures: settings, shares, and the next step for the worst layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from torch import nn
from tqdm import tqdm

from ...backends.calls.leaves import leaves
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.read.called import callable_of
from ...backends.fx.read.multiplications import count_multiplications
from ...config.layers.refine_config import REFINE
from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...plan.advice import Advice, Document, plain
from ...plan.configured_graph import ConfiguredGraph, LayerInput, inputs_of
from ...plan.remedies import left_in_float, widened
from ...quantizers.quantizer import Quantizer
from ...report.analysis import WITHOUT, Analysis, NextStep, Remark, TensorSettings, compare
from ..check.advice import all_advice
from ..kept_state import copies_of

WORST = 10  # layers that get a remark
_WIDE = 16  # bits of the data that are suggested
_LEAST_GAIN = 0.2  # dB at the output, with the layer in float: what no setting of the layer can exceed is not advised
_MOST = 0.5  # share of a layer's noise that makes its weight the reason


def layer_settings(layer: QuantizedLayer) -> tuple[TensorSettings, ...]:
    """Returns how the inputs and the weight of a calibrated layer are quantized."""
    absent = layer.non_float_inputs.tolist()
    found = [_settings(f"input {at}", one) for at, one in enumerate(layer.activation) if not absent[at]]
    if layer.weighted is not None:
        params = layer.weighted.frozen().params
        ends = float(params.scale.min()), float(params.scale.max())
        found.append(_described("weight", layer.weighted.quantizer, params.num_bits, ends, 0))
    return tuple(found)


def read_on(graph: QuantGraphModule) -> Iterator[tuple[str, float]]:
    """Yields each node whose result a quantized layer reads, with the step of the grid of the first such reader."""
    for node in graph.graph.nodes:
        for user in node.users:
            layer = callable_of(graph, user) if user.op == "call_module" else None
            if isinstance(layer, QuantizedLayer) and layer.activation and layer.activation[0].is_calibrated:
                own = callable_of(graph, node) if node.op == "call_module" else None
                name = own.name if isinstance(own, QuantizedLayer) else node.name
                yield name, float(layer.activation[0].params().scale)
                break


def with_remarks(
    analysis: Analysis, model: nn.Module, inputs: tuple[Any, ...], evaluate: Callable[[nn.Module], float] | None
) -> Analysis:
    """Returns ``analysis`` with shares, reasons, the next steps for the worst layers and the user's metric.

    The model is left in another mode.
    """
    metric = {} if evaluate is None else _metric(model, evaluate)
    if not isinstance(model, QuantGraphModule) or model.origin is None:
        return dataclasses.replace(analysis, metric=metric)
    counted = count_multiplications(model, copies_of(inputs))
    total = sum(counted.values()) or 1
    graph = model.origin.model.graph
    remarks = list(_remarks(analysis, model, inputs))
    if evaluate is not None:
        metric |= {f"{WITHOUT}{one.name}": _metric_without(model, one.name, evaluate) for one in remarks}
    return dataclasses.replace(
        analysis,
        shares={name: count / total for name, count in counted.items() if count},
        reasons={skip.name: skip.reason for skip in graph.skips},
        remarks=tuple(remarks),
        metric=metric,
    )


def _remarks(analysis: Analysis, model: QuantGraphModule, inputs: tuple[Any, ...]) -> Iterator[Remark]:
    worst = sorted(analysis.layerwise, key=lambda one: one.worst.sqnr_db)[:WORST]
    worst = [one for one in worst if math.isfinite(one.worst.sqnr_db)]
    if not worst:
        return
    assert model.origin is not None
    advice = all_advice(model, None)
    runs = _Runs(model, inputs)
    for effect in tqdm(worst, desc="next steps", unit="layer"):
        layer = model.quantized_layers[effect.name]
        weight = None if layer.weight is None else runs.with_weight_only(layer)
        gain = runs.without(layer)
        yield Remark(
            name=effect.name,
            sqnr_db=effect.worst.sqnr_db,
            weight_sqnr_db=weight,
            gain_db=gain,
            finding=_finding(effect.worst.sqnr_db, weight, gain),
            steps=tuple(_steps(model.origin.model, layer, effect.worst.sqnr_db, weight, gain, advice)),
        )


class _Runs:
    """Forwards of the model with one layer in another mode than the rest; what is compared is the first output."""

    def __init__(self, model: QuantGraphModule, inputs: tuple[Any, ...]) -> None:
        self._model = model
        self._inputs = inputs
        self._float = self._output(Mode.FLOAT)
        self._quantized = self._sqnr(Mode.FAKE_QUANT)

    def with_weight_only(self, layer: QuantizedLayer) -> float:
        """Returns the SQNR with the weight of ``layer`` alone quantized."""
        return self._sqnr(Mode.FLOAT, layer, Mode.WEIGHTS)

    def without(self, layer: QuantizedLayer) -> float:
        """Returns what the SQNR of the quantized model gains if ``layer`` is in float."""
        gained = self._sqnr(Mode.FAKE_QUANT, layer, Mode.FLOAT)
        return gained - self._quantized if math.isfinite(gained) and math.isfinite(self._quantized) else 0.0

    def _sqnr(self, mode: Mode, layer: QuantizedLayer | None = None, other: Mode = Mode.FLOAT) -> float:
        return compare(self._float, self._output(mode, layer, other)).sqnr_db

    def _output(self, mode: Mode, layer: QuantizedLayer | None = None, other: Mode = Mode.FLOAT) -> Any:
        self._model.mode = mode
        if layer is not None:
            layer.mode = other
        with self._model.keeping_inputs():  # a layer must not overwrite what another one reads in float
            found = self._model(*copies_of(self._inputs))
        return next(leaves(found))


def _finding(sqnr: float, weight: float | None, gain: float) -> str:
    parts = [f"Quantized alone: SQNR {sqnr:.1f} dB"]
    if weight is not None:
        parts.append(f"its weight alone {weight:.1f} dB" if math.isfinite(weight) else "its weight alone is exact")
    return f"{', '.join(parts)}. In float the output of the quantized model would change by {gain:+.1f} dB."


def _steps(
    model: ConfiguredGraph,
    layer: QuantizedLayer,
    sqnr: float,
    weight: float | None,
    gain: float,
    advice: tuple[Advice, ...],
) -> Iterator[NextStep]:
    """Yields what to try: what the advice says, what the weight or the data wants, and float.

    Nothing of its own for a layer that would gain next to nothing in float; refinement improves all layers together.
    """
    for one in advice:
        if layer.name in one.layers:
            yield NextStep(f"Advice, {one.rule.value}: {one.remedies[0].text}.", one.yaml)
    is_of_weight = weight is not None and 10 ** (-weight / 10) > _MOST * 10 ** (-sqnr / 10)
    if gain < _LEAST_GAIN:
        yield NextStep(
            f"No step for this layer alone: even in float it gains less than {_LEAST_GAIN} dB at the output."
        )
    if is_of_weight:
        yield from _steps_for_weight(layer, is_worth=gain >= _LEAST_GAIN)
    elif gain >= _LEAST_GAIN:
        document = widened(model, _data_of(model, layer.name), _WIDE)
        if document is not None and document["override_layer_configs"]:
            yield NextStep(f"Most of the noise is of the data: give it {_WIDE} bits.", _yaml(document))
    skipped = left_in_float(model, [layer.name]) if gain >= _LEAST_GAIN else None
    if skipped is not None:
        yield NextStep(f"Leave it in float ({gain:+.1f} dB).", _yaml(skipped))


def _steps_for_weight(layer: QuantizedLayer, *, is_worth: bool) -> Iterator[NextStep]:
    assert layer.weight is not None
    name = type(layer.weight).__name__
    arguments: dict[str, Any] = {}
    if layer.weight.num_bits < 8:
        arguments = {"num_bits": 8}
    elif layer.weighted is not None and not layer.weighted.frozen().params.scale.dim() and _has_channels(layer):
        arguments = {"channel_wise": True}
    if arguments and is_worth and name.startswith("Arq"):
        params = {"quantizer": name, "quantizer_args": arguments}
        document = {"override_layer_configs": [{"layer_name": [layer.name], "weight_quant_params": params}]}
        yield NextStep("Most of the noise is of the weight: quantize it more finely.", _yaml(document))
    yield NextStep(
        "Most of the noise is of the weight: amct.refine chooses its rounding by the output, without training.",
        _yaml({REFINE: True}),
    )


def _has_channels(layer: QuantizedLayer) -> bool:
    return type(layer.call.module).__name__.startswith("Conv")


def _data_of(model: ConfiguredGraph, name: str) -> list[LayerInput]:
    return [one for one in inputs_of(model.graph[name]) if model.settings(one) is not None]


def _metric(model: nn.Module, evaluate: Callable[[nn.Module], float]) -> dict[str, float]:
    found = {}
    for state, mode in (("float", Mode.FLOAT), ("fake_quant", Mode.FAKE_QUANT), ("real_quant", Mode.REAL_QUANT)):
        for graph in (one for one in model.modules() if isinstance(one, QuantGraphModule)):
            graph.mode = mode
        found[state] = float(evaluate(model))
    return found


def _metric_without(model: QuantGraphModule, name: str, evaluate: Callable[[nn.Module], float]) -> float:
    model.mode = Mode.FAKE_QUANT
    model.quantized_layers[name].mode = Mode.FLOAT
    return float(evaluate(model))


def _settings(what: str, quantizer: Any) -> TensorSettings:
    params = quantizer.params()
    scale = float(params.scale)
    return _described(what, quantizer, params.num_bits, (scale, scale), int(params.offset))


def _described(
    what: str, quantizer: Quantizer, num_bits: int, scales: tuple[float, float], offset: int
) -> TensorSettings:
    observer = quantizer._modules.get("observer")
    return TensorSettings(
        what=what,
        num_bits=num_bits,
        scales=scales,
        offset=offset,
        quantizer=type(quantizer).__name__,
        observer="" if observer is None else type(observer).__name__,
    )


def _yaml(document: Document) -> str:
    return str(yaml.safe_dump(plain(document), sort_keys=False))
