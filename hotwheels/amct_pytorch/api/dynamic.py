"""Post-training quantization on the dynamic path (spec 3).

HiSilicon's AMCT manual, chapter "The dynamic-graph version" [动态图版本说明].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..config.arguments.unmatched import strictness
from ..config.dynamic.simple_cfg import read_simple_calibration, simple_calibration
from ..files import check_distinct, check_target
from ..log import get_logger
from ..workflows.arguments import (
    as_inputs,
    check_axes,
    check_existing,
    check_model,
    check_names,
    check_save_path,
    check_type,
    documented_order,
    tell_configuration,
    warn_of_replacement,
)
from ..workflows.torch_contexts import in_full_precision

_log = get_logger(__name__)


@documented_order(config_definition="config_defination")
@in_full_precision
def create_quant_config(
    config_file: str | Path,
    model: nn.Module,
    input_data: Any,
    skip_layers: Sequence[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
    config_defination: str | Path | None = None,
    *,
    strict: bool | None = None,
) -> None:
    """Writes ``config_file`` (JSON): one entry per quantizable layer of ``model`` (spec 9.2).

    Args:
      config_file: File to write; folders are made, an existing file is replaced with a warning.
      model: Float model with its weights; it is not changed.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      skip_layers: Layers that stay in float; the name of a container means all layers inside it.
      batch_num: Number of calibration forwards, above 0.
      activation_offset: Whether data is quantized with an offset.
      config_defination: Simple configuration (spec 9.4), which replaces the three arguments in front of it. Also
        spelled ``config_definition``.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The simple configuration or an argument is wrong.
      ExportError: The model cannot be exported to ONNX.
      UnsupportedModelError: The model is quantized already, or ``input_data`` holds no tensor.
    """
    function = "create_quant_config"
    path, model = check_target(function, "config_file", config_file), check_model(function, model)
    from ..workflows.calibration import write_config  # here, because onnx costs every import a second and 40 MB

    with strictness(strict):
        if config_defination is None:
            simple = simple_calibration(skip_layers, batch_num, activation_offset)
        else:
            definition = check_existing(function, "config_defination", config_defination)
            check_distinct(function, config_file=path, config_defination=definition)
            simple = read_simple_calibration(definition)
        warn_of_replacement(path)
        count = write_config(path, model, as_inputs(input_data), simple)
    tell_configuration(path, count)


@documented_order(modified_onnx_file="modfied_onnx_file")
@in_full_precision
def quantize_model(
    config_file: str | Path,
    modfied_onnx_file: str | Path,
    record_file: str | Path,
    model: nn.Module,
    input_data: Any,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: dict[str, Any] | None = None,
    *,
    strict: bool | None = None,
) -> nn.Module:
    """Returns ``model`` quantized as ``config_file`` says; its forwards calibrate it (spec 3).

    Its outputs are float until ``batch_num`` forwards have been seen; the last of them completes ``record_file``, and
    from then on outputs are fake-quantized.

    Args:
      config_file: JSON made by ``create_quant_config``.
      modfied_onnx_file: Written: the float model as ONNX, BatchNorm folded, nodes named after the layers. Also spelled
        ``modified_onnx_file``.
      record_file: Written: the quantization factors; at once those of the weights, after calibration all.
      model: Float model; it is not changed.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      input_names: Names of the ONNX inputs, default: the argument names of the forward.
      output_names: Names of the ONNX outputs, default ``output`` or ``output_<i>``.
      dynamic_axes: ``{name: {axis: label}}`` or ``{name: [axes]}``.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The configuration is wrong, does not fit the model or enables no layer.
      UnsupportedModelError: The model is quantized already, or breaks rules of the hardware: all are named (spec 13.1).
      ExportError: The model cannot be exported to ONNX.
    """
    function = "quantize_model"
    config_path, model = check_existing(function, "config_file", config_file), check_model(function, model)
    onnx_path = check_target(function, "modfied_onnx_file", modfied_onnx_file)
    record_path = check_target(function, "record_file", record_file)
    check_distinct(function, config_file=config_path, modfied_onnx_file=onnx_path, record_file=record_path)
    setting = {
        "input_names": check_names(function, "input_names", input_names),
        "output_names": check_names(function, "output_names", output_names),
        "dynamic_axes": check_axes(function, dynamic_axes),
    }
    from ..workflows.calibration import quantize

    with strictness(strict):
        quantized = quantize(config_path, onnx_path, record_path, model, as_inputs(input_data), setting)
    _log.info("Wrote '%s' and the weight factors in '%s'.", onnx_path, record_path)
    return quantized


@documented_order(modified_onnx_file="modfied_onnx_file")
@in_full_precision
def save_model(
    modfied_onnx_file: str | Path,
    record_file: str | Path,
    save_path: str | Path,
    calibration_torch_model: nn.Module | None = None,
) -> None:
    """Writes the fake_quant and the deploy model with its parameter files (spec 11.1).

    Args:
      modfied_onnx_file: Made by ``quantize_model``. Also spelled ``modified_onnx_file``.
      record_file: Completed by the calibration.
      save_path: Folder and name prefix of the files; folders are made.
      calibration_torch_model: The quantized model; needed only if the configuration says ``update_bn``. The factors
        that follow from the new BatchNorm statistics are then also written, to ``<record_file>_update.txt``. Its other
        weights must be those of the ONNX file.

    Raises:
      CalibrationError: The record lacks factors; the text names the layers.
      ExportError: The ONNX file is not one of ``quantize_model``, the weights of the model were changed after it, or
        the model cannot be written.
      RecordError: The record is damaged.
    """
    function = "save_model"
    onnx_path = check_existing(function, "modfied_onnx_file", modfied_onnx_file)
    record_path = check_existing(function, "record_file", record_file)
    check_save_path(save_model, save_path)
    expected = (nn.Module, type(None))
    check_type(function, "calibration_torch_model", calibration_torch_model, expected, "a torch.nn.Module or None")
    from ..workflows.calibration import save

    written = save(onnx_path, record_path, save_path, calibration_torch_model)
    _log.info("Wrote %s.", ", ".join(f"'{path}'" for path in written))


@documented_order()
def update_bn_status(calibration_model: nn.Module, training: bool = True) -> None:
    """Makes the BatchNorms of a model from ``quantize_model`` update their statistics, or freezes them (spec 3).

    Args:
      calibration_model: The model, or a module that contains it.
      training: True: BatchNorms use batch statistics, which update the running statistics; weights are quantized, data
        is not observed. False: BatchNorms use running statistics; calibration continues. Without ``update_bn`` in the
        configuration only the BatchNorms' training flag changes.

    Raises:
      ConfigError: There is no such model inside ``calibration_model``.
    """
    function = "update_bn_status"
    check_type(function, "calibration_model", calibration_model, nn.Module, "a torch.nn.Module")
    check_type(function, "training", training, bool, "a bool")
    from ..backends.dynamic.session.calibration_session import CalibrationSession
    from ..backends.dynamic.session.session_forward import find_session

    model, session = find_session(function, calibration_model, CalibrationSession, ("quantize_model",))
    session.set_batch_norms(model, training)
