"""Quantization-aware training on the dynamic path (spec 3).

HiSilicon's AMCT manual, chapters "The dynamic-graph version" [动态图版本说明] and
"Quantization-aware training" [量化感知训练].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..config.arguments.unmatched import strictness
from ..config.dynamic.simple_cfg import read_simple_retrain
from ..files import check_distinct, check_path, check_target
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
def create_quant_retrain_config(
    config_file: str | Path,
    model: nn.Module,
    input_data: Any,
    config_defination: str | Path | None = None,
    *,
    strict: bool | None = None,
) -> None:
    """Writes ``config_file`` (JSON): one entry per quantizable layer of ``model`` (spec 9.3).

    Args:
      config_file: File to write; folders are made, an existing file is replaced with a warning.
      model: Float model with its weights; it is not changed.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      config_defination: Simple configuration (spec 9.5), or None for the defaults: LUQ data, ARQ weights, 8 bits. Also
        spelled ``config_definition``.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The simple configuration is wrong.
      ExportError: The model cannot be exported to ONNX.
      UnsupportedModelError: The model is quantized already, uses a module without weights several times, or
        ``input_data`` holds no tensor.
    """
    function = "create_quant_retrain_config"
    path, model = check_target(function, "config_file", config_file), check_model(function, model)
    from ..workflows.retraining import write_config  # here, because onnx costs every import a second and 40 MB

    with strictness(strict):
        simple = None
        if config_defination is not None:
            definition = check_existing(function, "config_defination", config_defination)
            check_distinct(function, config_file=path, config_defination=definition)
            simple = read_simple_retrain(definition)
        warn_of_replacement(path)
        count = write_config(path, model, as_inputs(input_data), simple)
    tell_configuration(path, count)


@documented_order()
@in_full_precision
def create_quant_retrain_model(
    config_file: str | Path,
    model: nn.Module,
    record_file: str | Path,
    input_data: Any,
    *,
    strict: bool | None = None,
) -> nn.Module:
    """Returns ``model`` with quantizers as ``config_file`` says, ready to be trained (spec 3).

    Its first ``batch_num`` forwards find the ranges with which training begins; from then on everything is
    fake-quantized. After training, ``batch_num`` forwards in eval mode complete ``record_file``. Build the optimizer
    after this call, because quantizers have parameters of their own. In a distributed run every process makes its own
    model and configuration, with the same paths. If ULQ ranges need more than one batch, set
    ``find_unused_parameters=True`` in DistributedDataParallel.

    Args:
      config_file: JSON made by ``create_quant_retrain_config``.
      model: Float model with its weights; it is not changed.
      record_file: Written: the quantization factors, those of the weights at once.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The configuration is wrong, does not fit the model or enables no layer.
      UnsupportedModelError: The model is quantized already, uses a module without weights several times, or breaks
        rules of the hardware: all are named (spec 13.1).
      ExportError: The model cannot be exported to ONNX.
    """
    with strictness(strict):
        return _quantize("create_quant_retrain_model", config_file, model, record_file, input_data)


@documented_order()
@in_full_precision
def restore_quant_retrain_model(
    config_file: str | Path,
    model: nn.Module,
    record_file: str | Path,
    input_data: Any,
    pth_file: str | Path,
    state_dict_name: str | None = None,
    *,
    strict: bool | None = None,
) -> nn.Module:
    """Returns the quantized model whose state was saved in ``pth_file``, so that its training can continue (spec 3).

    Args:
      config_file: The configuration the saved model was made with.
      model: A fresh float model; it is not changed.
      record_file: Written: all quantization factors if the state was saved after evaluation or a record that is there
        belongs to it; else those of the weights.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      pth_file: ``torch.save`` of the quantized model's ``state_dict()``, or of a dict that holds one.
      state_dict_name: Key of the state_dict in such a dict.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The key is missing, the state does not fit the model, or it was saved with other quantizers.
    """
    function = "restore_quant_retrain_model"
    checkpoint = check_existing(function, "pth_file", pth_file)
    check_type(function, "state_dict_name", state_dict_name, (str, type(None)), "a string or None")
    from ..workflows.retraining import former_record, restore

    former = former_record(check_path(function, "record_file", record_file))
    with strictness(strict):
        quantized = _quantize(function, config_file, model, record_file, input_data)
    restore(quantized, checkpoint, state_dict_name, former)
    return quantized


@documented_order()
@in_full_precision
def save_quant_retrain_model(
    config_file: str | Path,
    model: nn.Module,
    record_file: str | Path,
    save_path: str | Path,
    input_data: Any,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: dict[str, Any] | None = None,
) -> None:
    """Writes the fake_quant and the deploy model of a trained model with its parameter files (spec 11.1).

    Call it on one process only. If weights have changed since the record was completed, the factors that are saved are
    also written to ``<record_file>_update.txt``.

    Args:
      config_file: The configuration of the model.
      model: Trained model, or DistributedDataParallel around it; it is not changed.
      record_file: Completed by ``batch_num`` forwards in eval mode after the training.
      save_path: Folder and name prefix of the files; folders are made.
      input_data: Example input: a tensor, or the positional arguments of the forward.
      input_names: Names of the ONNX inputs, default: the argument names of the forward.
      output_names: Names of the ONNX outputs, default ``output`` or ``output_<i>``.
      dynamic_axes: ``{name: {axis: label}}`` or ``{name: [axes]}``.

    Raises:
      CalibrationError: The record lacks factors, or factors of data have changed since; the text names the layers.
      ConfigError: ``model`` is not from ``create_quant_retrain_model``, or ``config_file`` is not its configuration.
      ExportError: The model cannot be exported to ONNX.
      RecordError: The record is damaged.
    """
    function = "save_quant_retrain_model"
    config_path, model = check_existing(function, "config_file", config_file), check_model(function, model)
    record_path = check_existing(function, "record_file", record_file)
    check_save_path(save_quant_retrain_model, save_path)
    setting = {
        "input_names": check_names(function, "input_names", input_names),
        "output_names": check_names(function, "output_names", output_names),
        "dynamic_axes": check_axes(function, dynamic_axes),
    }
    from ..workflows.retraining import save

    written = save(config_path, model, record_path, save_path, as_inputs(input_data), setting)
    _log.info("Wrote %s.", ", ".join(f"'{path}'" for path in written))


def _quantize(
    function: str, config_file: str | Path, model: nn.Module, record_file: str | Path, input_data: Any
) -> nn.Module:
    config_path, model = check_existing(function, "config_file", config_file), check_model(function, model)
    record_path = check_target(function, "record_file", record_file)
    check_distinct(function, config_file=config_path, record_file=record_path)
    from ..workflows.retraining import quantize

    quantized = quantize(config_path, record_path, model, as_inputs(input_data))
    _log.info("Wrote the weight factors to '%s'.", record_path)
    return quantized
