"""The implementation of ``check_model``: quantizable layers, problems of the trace, and advice."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.trace.diagnosis import Diagnosis, diagnose
from ...backends.fx.write.example_call import positional_inputs
from ...config.fx.expand import expand
from ...errors import AmctError, UnsupportedModelError
from ...graph import OpGraph, Skip
from ...nn.quantized_layer import QuantizedLayer
from ...ops.registry import Registry
from ...plan.advice import Advice
from ...plan.integer_share import batch_norms_left
from ..quantized import require_calibration
from ..static import check_export, default_quantized, default_quantized_copy
from .advice import all_advice
from .integer_share import measured_share
from .model_report import CheckedLayer, ModelProblem, ModelReport


def report_of_float(model: nn.Module, inputs: tuple[Any, ...] | None, example: tuple[Any, ...] | None) -> ModelReport:
    """Returns the report of a float model.

    With ``inputs`` there is advice that needs data too. The trace uses ``example``, or else ``inputs``.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise UnsupportedModelError("The model is quantized already. Pass the float model.")
    try:
        found = diagnose(model, Registry(), example or inputs, is_placed=inputs is not None and example is None)
    except UnsupportedModelError as error:
        problem = problem_of(error)
        return ModelReport(
            model=type(model).__name__, problems=(problem,), quantizable=(), skipped=(), is_complete=False
        )
    problems = tuple(
        ModelProblem(modules=paths, error=one.error, place=one.place, reason=one.reason, rewrite=one.rewrite)
        for one, paths in zip(found.problems, found.modules, strict=True)
    )
    advice, multiplications = _advice_of_float(found), None
    if inputs is not None and not problems:
        try:
            quantized = _quantized(model, inputs, found, has_own_trace=example is not None)
            given = positional_inputs(quantized, inputs)
            advice, multiplications = all_advice(quantized, given), measured_share(quantized, given)
            check_export(quantized, inputs)
        except AmctError as error:
            problems = (problem_of(error),)
    return ModelReport(
        model=type(model).__name__,
        problems=problems,
        quantizable=() if found.graph is None else _layers(found.graph),
        skipped=() if found.graph is None else _skips(found.graph, found),
        advice=advice,
        batch_norms=() if found.graph is None else batch_norms_left(found.graph),
        multiplications=multiplications,
        is_complete=found.graph is not None,
    )


def _quantized(model: nn.Module, inputs: tuple[Any, ...], found: Diagnosis, *, has_own_trace: bool) -> QuantGraphModule:
    """Returns the calibrated model, from the trace that was ``found`` if that is the trace of ``inputs``."""
    if found.refusal is not None:
        raise found.refusal
    if has_own_trace or found.backend is None:
        return default_quantized_copy(model, [inputs])
    return default_quantized(found.backend, inputs)


def problem_of(error: AmctError) -> ModelProblem:
    """Returns the refusal of a whole model as a problem."""
    text, *lines = str(error).splitlines()
    return ModelProblem(
        modules=("",),
        error=f"{type(error).__name__}: {text}",
        place="\n".join(lines),
        reason="the model is refused",
        rewrite="See the text of the error",
    )


def report_of_quantized(quantized: QuantGraphModule, inputs: tuple[Any, ...] | None) -> ModelReport:
    """Returns the report of a quantized model; CalibrationError if the model is not calibrated."""
    require_calibration(quantized)
    origin = quantized.origin
    given = None if inputs is None else positional_inputs(quantized, inputs)
    return ModelReport(
        model=type(quantized).__name__,
        problems=(),
        quantizable=() if origin is None else _configured_layers(origin.model.graph, set(quantized.quantized_layers)),
        skipped=() if origin is None else origin.model.graph.skips,
        advice=all_advice(quantized, given),
        batch_norms=() if origin is None else batch_norms_left(origin.model.graph),
        multiplications=None if given is None else measured_share(quantized, given),
        is_quantized=True,
    )


def _configured_layers(graph: OpGraph, quantized: set[str]) -> tuple[CheckedLayer, ...]:
    return tuple(CheckedLayer(node.name, node.type, node.name in quantized) for node in graph.quantizable)


def _advice_of_float(found: Diagnosis) -> tuple[Advice, ...]:
    if found.backend is None or found.graph is None:
        return ()
    config = expand(found.graph, None)
    return found.backend.origin(found.graph, config).advice


def _layers(graph: OpGraph) -> tuple[CheckedLayer, ...]:
    return tuple(CheckedLayer(node.name, node.type, node.is_on_by_default) for node in graph.quantizable)


def _skips(graph: OpGraph, found: Diagnosis) -> tuple[Skip, ...]:
    untraced = {path for paths in found.modules for path in paths}
    return tuple(
        Skip(skip.name, "it cannot be traced, see the problems") if graph[skip.name].module_path in untraced else skip
        for skip in graph.skips
    )
