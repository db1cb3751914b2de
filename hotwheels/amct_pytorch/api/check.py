"""check_model: what the SDK can do with a model, and what is worth changing in it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..backends.fx.trace.diagnosis import Diagnosis, diagnose
from ..config.fx.expand import expand
from ..graph import OpGraph, Skip
from ..ops.registry import Registry
from ..plan.advice import Advice
from ..workflows.advice import all_advice
from ..workflows.arguments import as_example, as_inputs
from ..workflows.arguments import check_model as check_argument
from ..workflows.default_copy import default_quantized_copy
from ..workflows.model_report import CheckedLayer, ModelProblem, ModelReport
from ..workflows.quantized import quantized_inside, require_calibration, the_quantized_graph


def check_model(model: nn.Module, inputs: Any = None, *, input_data: Any = None) -> ModelReport:
    """Returns what can be quantized in ``model``, what stays in float and why, what cannot be traced, and advice.

    ``model`` is not changed. Without ``inputs`` a float model is only looked at: nothing is quantized.

    Args:
      model: Float model, or a calibrated quantized model of the FX path.
      inputs: Input of the model, a tensor or the positional arguments of its forward; None if there is none. A float
        model that can be traced is copied, quantized with the default configuration and calibrated with it, so that
        there is advice on ranges too. What a swap of the inputs of a matmul gains is measured on it.
      input_data: As in ``create_quant_config_fx``: an example which only the trace follows. ``inputs`` are one too.

    Raises:
      CalibrationError: The quantized model is not calibrated.
      UnsupportedModelError: The model cannot be copied, is quantized on the dynamic path, or only contains a quantized
        model.
    """
    function = "check_model"
    model = check_argument(function, model)
    given = None if inputs is None else as_inputs(inputs)
    if any(isinstance(module, QuantGraphModule) for module in model.modules()):
        quantized_inside(function, model)  # refuses DataParallel
        return _report_of_quantized(the_quantized_graph(function, model), given)
    found = diagnose(model, Registry(), as_example(input_data) or given)
    problems = tuple(
        ModelProblem(modules=paths, error=one.error, place=one.place, reason=one.reason, rewrite=one.rewrite)
        for one, paths in zip(found.problems, found.modules, strict=True)
    )
    return ModelReport(
        model=type(model).__name__,
        problems=problems,
        quantizable=() if found.graph is None else _layers(found.graph),
        skipped=() if found.graph is None else _skips(found.graph, found),
        advice=_advice_of_float(found) if given is None or problems else _measured_advice(model, given),
        is_complete=found.graph is not None,
    )


def _report_of_quantized(quantized: QuantGraphModule, inputs: tuple[Any, ...] | None) -> ModelReport:
    require_calibration(quantized)
    origin = quantized.origin
    return ModelReport(
        model=type(quantized).__name__,
        problems=(),
        quantizable=() if origin is None else _configured_layers(origin.model.graph, set(quantized.quantized_layers)),
        skipped=() if origin is None else origin.model.graph.skips,
        advice=all_advice(quantized, inputs),
        is_quantized=True,
    )


def _configured_layers(graph: OpGraph, quantized: set[str]) -> tuple[CheckedLayer, ...]:
    return tuple(CheckedLayer(node.name, node.type, node.name in quantized) for node in graph.quantizable)


def _measured_advice(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Advice, ...]:
    return all_advice(default_quantized_copy(model, inputs), inputs)


def _advice_of_float(found: Diagnosis) -> tuple[Advice, ...]:
    if found.backend is None or found.graph is None:
        return ()
    config = expand(found.graph, None)
    return found.backend.origin(found.graph, config).advice


def _layers(graph: OpGraph) -> tuple[CheckedLayer, ...]:
    return tuple(
        CheckedLayer(
            node.name, node.type, node.op is not None and node.op.is_default_enabled and node.is_default_enabled
        )
        for node in graph.quantizable
    )


def _skips(graph: OpGraph, found: Diagnosis) -> tuple[Skip, ...]:
    untraced = {path for paths in found.modules for path in paths}
    return tuple(
        Skip(skip.name, "it cannot be traced, see the problems") if graph[skip.name].module_path in untraced else skip
        for skip in graph.skips
    )
