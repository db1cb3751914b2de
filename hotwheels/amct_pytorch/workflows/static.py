"""The implementation of the FX path: configuration, quantized model, files."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..backends.batches.input_forms import differences, forms_of
from ..backends.calls.leaves import tensors_in
from ..backends.fx.backend import FxBackend
from ..backends.fx.quant_graph_module import QuantGraphModule, names_of_inputs
from ..backends.fx.write.example_call import ExampleCall, make_example_call, positional_inputs
from ..backends.user_model.float_model import cast_to_float32, needs_float32
from ..config.fx.expand import expand
from ..config.fx.json_config import check_any_enabled, read_config
from ..config.fx.json_config import write_config as write_document
from ..config.fx.simple_config import SimpleConfig
from ..config.layers.quant_config import QuantConfig
from ..core.host_memory import keep_freed_memory_for, without_collection
from ..errors import ExportError, UnsupportedModelError
from ..files import PathLike
from ..files.naming import error_in_file
from ..graph import OpGraph
from ..log import get_logger, one_line_per_cause, warnings_only, without_log
from ..nn.mode import Mode
from ..ops.registry import Registry
from ..plan.planner import make_plan
from ..record import Record
from ..report.graph_boxes import draw_float, draw_quantized
from .check.advice import log_advice, log_calibrated_advice
from .kept_state import copies_of
from .onnx_setting import check_setting
from .planning import checked_plan, warn
from .quantized import require_calibration
from .refine.refine_model import refine_if_asked
from .stages import tell_folds, tell_placed, tell_record

if TYPE_CHECKING:
    from ..backends.fx.write.export import WrittenModel

_log = get_logger(__name__)
Inputs = tuple[Any, ...]
_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)  # their weights multiply nothing


@without_collection()
def write_config(path: Path, model: nn.Module, simple: SimpleConfig | None, inputs: Inputs | None) -> int:
    """Writes the configuration of ``model`` that follows from ``simple``; returns the number of its layers."""
    backend = FxBackend(model, Registry(), copies_tensors=False, inputs=inputs)
    graph = backend.graph()
    write_document(expand(graph, simple), path)
    _tell_float_modules(graph, backend.traced)
    return len(graph.quantizable)


def _tell_float_modules(graph: OpGraph, model: nn.Module) -> None:
    """Warns of modules that multiply with a weight and are no layers, such as an nn.LSTM."""
    reasons = {
        one.module_path: one.unquantizable for one in graph if one.unquantizable and one.op is None and one.module_path
    }
    with one_line_per_cause():
        for path, reason in reasons.items():
            module = model.get_submodule(path)
            if not isinstance(module, _LOOK_UPS) and any(one.dim() > 1 for one in module.parameters()):
                _log.warning_of_layer(
                    path,
                    f"it multiplies with weights in float: {reason}. check_model(model, input_data) tells its"
                    " share; layers of nn.Linear and nn.Conv2d can be quantized.",
                )


@without_collection()
def quantize(config_file: Path, model: nn.Module, inputs: Inputs | None, *, draws: bool = True) -> QuantGraphModule:
    """Returns ``model`` quantized as ``config_file`` says, in float state; ``draws`` pictures of both graphs."""
    keep_freed_memory_for(model)
    backend = FxBackend(model, Registry(), inputs=inputs)
    graph = backend.graph()
    config = read_config(config_file, graph)
    plan = checked_plan(graph, config, config_file, warn, allows_cube_only=True)
    if draws:
        draw_float(backend.traced, graph, config_file.with_name("float.svg"))
    tell_folds(plan)
    origin = backend.origin(graph, config)
    log_advice(origin.advice)
    with error_in_file(config_file):
        quantized = backend.place(plan, origin)
    tell_placed(quantized)
    if draws and inputs is not None:
        _tell_refusal(quantized, inputs)
    if draws:
        draw_quantized(quantized, graph, config_file.with_name("quant.svg"))
    return quantized


def default_quantized_copy(model: nn.Module, batches: Sequence[Inputs]) -> QuantGraphModule:
    """Returns a copy of ``model``, quantized with the default configuration and calibrated with ``batches``."""
    return calibrated_copy(model, lambda graph: _with_batch_num(_default_config(graph), len(batches)), batches)


def default_quantized(backend: FxBackend, inputs: Inputs) -> QuantGraphModule:
    """Returns the model of ``backend`` as `default_quantized_copy` does, without another trace; uses ``backend`` up."""
    return _calibrated(backend, _default_config, [inputs])


def _default_config(graph: OpGraph) -> QuantConfig:
    config = expand(graph, None)
    check_any_enabled(config)
    return config


def _with_batch_num(config: QuantConfig, batch_num: int) -> QuantConfig:
    """Returns the default ``config`` for a calibration with ``batch_num`` batches."""
    layers = {}
    for name, layer in config.layers.items():
        inputs = (dataclasses.replace(one, args={**one.args, "batch_num": batch_num}) for one in layer.activations)
        layers[name] = dataclasses.replace(layer, activations=tuple(inputs))
    return dataclasses.replace(config, layers=layers)


def calibrated_copy(
    model: nn.Module, config_of: Callable[[OpGraph], QuantConfig], batches: Sequence[Inputs]
) -> QuantGraphModule:
    """Returns a copy of ``model``, quantized with the configuration of its graph and calibrated with ``batches``."""
    return _calibrated(FxBackend(model, Registry(), inputs=batches[0]), config_of, batches)


@torch.no_grad()
def _calibrated(
    backend: FxBackend, config_of: Callable[[OpGraph], QuantConfig], batches: Sequence[Inputs]
) -> QuantGraphModule:
    graph = backend.graph()
    config = config_of(graph)
    quantized = backend.place(make_plan(graph, config), backend.origin(graph, config)).eval()
    quantized.mode = Mode.CALIBRATION
    with warnings_only():
        for batch in batches:
            quantized(*copies_of(positional_inputs(quantized, batch)))
    return quantized


def check_export(quantized: QuantGraphModule, inputs: Inputs) -> None:
    """Writes the float ONNX model of ``quantized`` for ``inputs`` into memory, as a save does.

    Raises:
      ExportError: A save would be refused; the text names the node.
    """
    from .onnx_files import write_in_memory  # here, because onnx costs every import a second and 40 MB

    write_in_memory(quantized, make_example_call(quantized, inputs), Registry())


@without_collection()
def _tell_refusal(quantized: QuantGraphModule, inputs: Inputs) -> None:
    """Warns if a save would be refused, before calibration and training, which may take days."""
    try:
        with without_log():
            check_export(quantized, inputs)
    except ExportError as error:
        _log.warning("A save with this input_data will be refused: %s", error)


def save(
    quantized: QuantGraphModule,
    prefix: PathLike,
    inputs: Inputs,
    export_setting: Mapping[str, Any] | None,
    golden_inputs: Inputs | None,
) -> tuple[Path, ...]:
    """Writes the files of a calibrated model and returns their paths; see ``save_quant_model_fx``."""
    # Here, because onnx costs every import a second and 40 MB.
    from .onnx_files import write_onnx_files

    quantized.follow_modules()
    require_calibration(quantized)
    refine_if_asked(quantized)
    log_calibrated_advice(quantized)
    if needs_float32(quantized):  # it was cast after it was quantized
        quantized = copy.deepcopy(quantized)
        cast_to_float32(quantized, "their values are written in float32")
        quantized.takes_other_floats = True
    example = make_example_call(quantized, inputs)
    setting = check_setting(export_setting)
    with torch.no_grad(), one_line_per_cause():
        layers = quantized.quantized_layers.items()
        record = Record({name: layer.record() for name, layer in layers if layer.is_quantized})
    tell_record(record)
    golden = None if golden_inputs is None else make_example_call(quantized, golden_inputs)
    try:
        with without_collection():
            written = _written(quantized, inputs, example, setting)
            return write_onnx_files(
                quantized, record, prefix, inputs=inputs, written=written, golden_inputs=golden_inputs
            )
    except (ExportError, UnsupportedModelError) as error:
        reasons = _other_shapes(quantized, inputs), _other_sizes(example, golden, setting)
        error.args = (f"{error}{''.join(reasons)}", *error.args[1:])
        raise


def _written(
    quantized: QuantGraphModule, inputs: Inputs, example: ExampleCall, setting: dict[str, Any]
) -> WrittenModel:
    from .check.twin_check import check_against_twin
    from .onnx_files import write_in_memory

    try:
        return write_in_memory(quantized, example, Registry(), setting)
    except ExportError:
        check_against_twin(quantized, inputs)  # raises if the graph is another network, which is then the reason
        raise


def _other_sizes(example: ExampleCall, golden: ExampleCall | None, setting: Mapping[str, Any]) -> str:
    """Says which golden inputs have other sizes than input_data in files without dynamic axes; empty if none has."""
    if golden is None or setting.get("dynamic_axes"):
        return ""
    pairs = zip(example.names, tensors_in(example.inputs), tensors_in(golden.inputs), strict=False)
    other = [
        f"'{name}' is {list(given.shape)}, in input_data {list(one.shape)}"
        for name, one, given in pairs
        if one.shape != given.shape
    ]
    if not other:
        return ""
    return (
        f"\ngolden_inputs: {'; '.join(other)}. The files have the sizes of input_data wherever the forward reads sizes."
        " Give both the same sizes, or name the axis in onnx_export_setting['dynamic_axes']."
    )


def _other_shapes(quantized: QuantGraphModule, inputs: Inputs) -> str:
    """Says which inputs have other sizes than in calibration, apart from the batch; empty if none has."""
    other = differences(forms_of(names_of_inputs(quantized), inputs, {}), quantized.seen_inputs)
    return f"\ninput_data: {other}." if other else ""
