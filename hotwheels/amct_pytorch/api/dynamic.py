"""Post-training quantization on the dynamic path (SPEC 3; manual: 动态图版本说明)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..backends.dynamic.backend import DynamicBackend
from ..backends.dynamic.bn_update import BnUpdate, fold_present_state
from ..backends.dynamic.float_model import read_settings
from ..backends.dynamic.graph import Fusion
from ..backends.dynamic.session import CalibrationSession, SessionPlan, find_session, start_session
from ..capacity import read_capacity
from ..config.calibration_config import (
    CalibrationConfig,
    read_calibration_config,
    read_calibration_globals,
    to_quant_config,
    write_calibration_config,
)
from ..config.expand_calibration import expand_calibration
from ..config.json_config import check_any_enabled
from ..config.simple_cfg import read_simple_calibration, simple_calibration
from ..errors import CalibrationError, UnsupportedModelError
from ..export.save import write_files
from ..files import check_path
from ..log import get_logger
from ..onnx_io.markers import read_sites
from ..onnx_io.model_file import load_model
from ..onnx_io.model_file import save_model as save_onnx
from ..plan.checks import Violation, find_violations
from ..plan.planner import make_plan
from ..record import Record
from ..record.text_proto import read_record, write_record
from .arguments import (
    as_inputs,
    check_axes,
    check_existing,
    check_model,
    check_names,
    check_save_path,
    check_type,
    documented_order,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_log = get_logger(__name__)
_UPDATE_BN = "update_bn"  # in the metadata of the file: save_model must know it without the config


@documented_order(config_definition="config_defination")
def create_quant_config(
    config_file: str | Path,
    model: nn.Module,
    input_data: Any,
    skip_layers: Sequence[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
    config_defination: str | Path | None = None,
) -> None:
    """Writes ``config_file`` (JSON): one entry per quantizable layer of ``model`` (SPEC 9.2).

    Args:
      config_file: File to write; folders are made, an existing file is replaced with a warning.
      model: Float model with its weights; it is not changed.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      skip_layers: Layers that stay in float; a container stands for all that is inside it.
      batch_num: Number of calibration forwards, above 0.
      activation_offset: Whether data is quantized with an offset.
      config_defination: Simple configuration (SPEC 9.4), which replaces the three arguments in front of it. Also
        spelled ``config_definition``.

    Raises:
      ConfigError: The simple configuration or an argument is wrong.
      ExportError: The model cannot be exported to ONNX.
      UnsupportedModelError: It is quantized already, or ``input_data`` holds no tensor.
    """
    function = "create_quant_config"
    path, model = check_path(function, "config_file", config_file), check_model(function, model)
    if config_defination is None:
        simple = simple_calibration(skip_layers, batch_num, activation_offset)
    else:
        simple = read_simple_calibration(check_existing(function, "config_defination", config_defination))
    capacity = read_capacity()
    backend = DynamicBackend(model, as_inputs(input_data), capacity)
    graph = backend.graph(Fusion(is_on=simple.do_fusion, skipped=simple.skip_fusion_layers))
    if path.exists():
        _log.warning("The configuration '%s' exists and is replaced.", path)
    write_calibration_config(expand_calibration(graph, simple, capacity), path)
    _log.info("Wrote the configuration of %d layers to '%s'.", len(graph.quantizable), path)


@documented_order(modified_onnx_file="modfied_onnx_file")
def quantize_model(
    config_file: str | Path,
    modfied_onnx_file: str | Path,
    record_file: str | Path,
    model: nn.Module,
    input_data: Any,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: dict[str, Any] | None = None,
) -> nn.Module:
    """Returns ``model`` quantized as ``config_file`` says; its forwards calibrate it (SPEC 3).

    Its outputs are float until ``batch_num`` forwards have been seen; the last of them completes ``record_file``, and
    from then on outputs are fake-quantized.

    Args:
      config_file: JSON made by ``create_quant_config``.
      modfied_onnx_file: Written: the float model as ONNX, BatchNorm folded, nodes named after the layers. Also spelled
        ``modified_onnx_file``.
      record_file: Written: the quantization factors, those of the weights at once.
      model: Float model; it is not changed.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      input_names: Names of the ONNX inputs, default: the argument names of the forward.
      output_names: Names of the ONNX outputs, default ``output`` or ``output_<i>``.
      dynamic_axes: ``{name: {axis: label}}`` or ``{name: [axes]}``.

    Raises:
      ConfigError: The configuration is wrong, does not fit the model or enables no layer.
      UnsupportedModelError: The model is quantized already, or breaks rules of the hardware: all are named (SPEC 13.1).
      ExportError: The model cannot be exported to ONNX.
    """
    function = "quantize_model"
    config_path, model = check_existing(function, "config_file", config_file), check_model(function, model)
    onnx_path = check_path(function, "modfied_onnx_file", modfied_onnx_file)
    record_path = check_path(function, "record_file", record_file)
    setting = {
        "input_names": check_names(function, "input_names", input_names),
        "output_names": check_names(function, "output_names", output_names),
        "dynamic_axes": check_axes(function, dynamic_axes),
    }
    capacity = read_capacity()
    given = read_calibration_globals(config_path)
    backend = DynamicBackend(model, as_inputs(input_data), capacity, setting)
    graph = backend.graph(Fusion(is_on=given.do_fusion, skipped=given.skip_fusion_layers))
    config = read_calibration_config(config_path, graph, capacity)
    quantizers = to_quant_config(config, graph)
    check_any_enabled(quantizers)
    _refuse(find_violations(graph, quantizers, capacity))
    plan = make_plan(graph, quantizers)
    for skip in plan.skips:
        _log.debug("Layer '%s' is not quantized: %s.", skip.name, skip.reason)
    session_plan = SessionPlan(
        batch_num=config.batch_num,
        record_file=record_path,
        shifted=frozenset(node.name for node in graph if node.type.rpartition(".")[2] in capacity.shift_n_types),
        unfused=frozenset(config.skip_fusion_layers),
        folds=backend.folds(graph),
        bn_update=_bn_update(config),
    )
    save_onnx(backend.float_model(plan, session_plan.folds, {_UPDATE_BN: config.update_bn}), onnx_path)
    quantized, layers = backend.place(plan, keeps_batch_norms=config.update_bn)
    start_session(quantized, layers, session_plan)
    _log.info("Wrote '%s' and the weight factors in '%s'.", onnx_path, record_path)
    return quantized


@documented_order(modified_onnx_file="modfied_onnx_file")
def save_model(
    modfied_onnx_file: str | Path,
    record_file: str | Path,
    save_path: str | Path,
    calibration_torch_model: nn.Module | None = None,
) -> None:
    """Writes the fake_quant and the deploy model with its parameter files (SPEC 11.1).

    Args:
      modfied_onnx_file: Made by ``quantize_model``. Also spelled ``modified_onnx_file``.
      record_file: Completed by the calibration.
      save_path: Folder and name prefix of the files; folders are made.
      calibration_torch_model: The quantized model; needed only if the configuration says ``update_bn``. Then what the
        new BatchNorm statistics make of the factors is also written, to ``<record_file>_update.txt``.

    Raises:
      CalibrationError: The record lacks factors; the text names the layers.
      ExportError: The ONNX file is not one of ``quantize_model``, or the model cannot be written.
      RecordError: The record is damaged.
    """
    function = "save_model"
    onnx_path = check_existing(function, "modfied_onnx_file", modfied_onnx_file)
    record_path = check_existing(function, "record_file", record_file)
    check_save_path(save_model, save_path)
    expected = (nn.Module, type(None))
    check_type(function, "calibration_torch_model", calibration_torch_model, expected, "a torch.nn.Module or None")
    model = load_model(onnx_path)
    settings, record = read_settings(model, onnx_path), read_record(record_path)
    _require_complete(model, record, record_path)
    if settings.get(_UPDATE_BN):
        session = _needed_session(function, calibration_torch_model)
        record = _with_updated_norms(model, record, session, record_path)
    written = write_files(model, record, save_path)
    _log.info("Wrote %s.", ", ".join(f"'{path}'" for path in written))


@documented_order()
def update_bn_status(calibration_model: nn.Module, training: bool = True) -> None:
    """Makes the BatchNorms of a model from ``quantize_model`` learn, or freezes them (SPEC 3).

    Args:
      calibration_model: The model, or one that contains it.
      training: True: batch statistics, which update the running ones; weights are quantized, data is not observed.
        False: running statistics; the calibration goes on. Without ``update_bn`` in the configuration nothing but the
        BatchNorms' training flag changes.

    Raises:
      ConfigError: There is no such model inside ``calibration_model``.
    """
    function = "update_bn_status"
    check_type(function, "calibration_model", calibration_model, nn.Module, "a torch.nn.Module")
    check_type(function, "training", training, bool, "a bool")
    model, session = find_session(function, calibration_model)
    session.set_batch_norms(model, training)


def _refuse(violations: Sequence[Violation]) -> None:
    if violations:
        lines = [f"- {one.reason}\n  Repair: {one.repair}." for one in violations]
        title = "The model cannot be quantized with this configuration, rules of the hardware are broken:"
        raise UnsupportedModelError("\n".join([title, *lines]))


def _bn_update(config: CalibrationConfig) -> BnUpdate | None:
    return BnUpdate(momentum=config.bn_update_config.bn_momentum) if config.update_bn else None


def _require_complete(model: ir.Model, record: Record, path: Path) -> None:
    missing = []
    for name, site in read_sites(model).items():
        layer = record.layers.get(name)
        known = set() if layer is None else {one.index for one in layer.activations}
        if not known.issuperset(site.inputs):
            missing.append(name)
    if missing:
        raise CalibrationError(
            f"Calibration is not complete, '{path}' lacks factors of {len(missing)} layers: {', '.join(missing)}. Run"
            " at least batch_num forwards of the model which quantize_model returned before save_model."
        )


def _needed_session(function: str, model: nn.Module | None) -> CalibrationSession:
    if model is None:
        raise TypeError(
            f"{function}: argument 'calibration_torch_model' must be the model which quantize_model returned, got None:"
            " with update_bn the statistics of its BatchNorms are needed."
        )
    return find_session(function, model)[1]


def _with_updated_norms(model: ir.Model, record: Record, session: CalibrationSession, path: Path) -> Record:
    """Folds the present BatchNorms into ``model``, in place, and returns the record that fits."""
    updated = fold_present_state(model, record, session)
    if updated != record:
        write_record(updated, path.with_name(f"{path.stem}_update.txt"))
    return updated
