"""The FX path: configuration, quantized model, modes, saving, restoring (spec 2).

HiSilicon's AMCT manual, chapter "API reference" [接口说明].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..config.arguments.unmatched import strictness
from ..config.fx.simple_yaml import read_simple_yaml
from ..errors import ExportError
from ..files import check_distinct, check_folder, check_target
from ..log import get_logger
from ..nn.mode import Mode
from ..report.dump import Dumper
from ..workflows import static
from ..workflows.arguments import (
    as_example,
    as_inputs,
    check_aliases,
    check_existing,
    check_model,
    check_prefix,
    check_type,
    tell_configuration,
    warn_of_replacement,
)
from ..workflows.check.advice import log_calibrated_advice
from ..workflows.checkpoint import load_checkpoint
from ..workflows.data_batches import check_call
from ..workflows.quantized import quantized_inside, switchable_inside, the_quantized_graph, warn_of_finished_calibration
from ..workflows.refine.refine_model import refine_if_asked
from ..workflows.torch_contexts import in_full_precision

_log = get_logger(__name__)


@in_full_precision
def create_quant_config_fx(
    config_file: str | Path,
    model: nn.Module,
    config_definition: str | Path | None = None,
    *,
    config_defination: str | Path | None = None,
    input_data: Any = None,
    strict: bool | None = None,
) -> None:
    """Writes ``config_file`` (JSON): one entry per quantizable layer of ``model`` (spec 8.4).

    Args:
      config_file: File to write; folders are made, an existing file is replaced with a warning.
      model: Float model with its weights; it is not changed.
      config_definition: Simple configuration (``.yml``, ``.yaml``; spec 8.5), or None for the defaults.
      config_defination: The vendor's spelling of ``config_definition``.
      input_data: Example input, a tensor or the positional arguments of the forward (a dict as last element holds
        keyword arguments), with which the model is traced. None: torch.fx traces symbolically, without an example.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The simple configuration is wrong.
      UnsupportedModelError: The model cannot be traced.
    """
    function = "create_quant_config_fx"
    path, model = check_target(function, "config_file", config_file), check_model(function, model)
    definition = check_aliases(function, "config_definition", config_definition, "config_defination", config_defination)
    if definition is not None:
        definition = check_existing(function, "config_definition", definition)
        check_distinct(function, config_file=path, config_definition=definition)
    with strictness(strict):
        simple = None if definition is None else read_simple_yaml(definition)
        warn_of_replacement(path)
        count = static.write_config(path, model, simple, as_example(input_data))
    tell_configuration(path, count)


@in_full_precision
def create_quant_model_fx(
    config_file: str | Path, model: nn.Module, *, input_data: Any = None, strict: bool | None = None
) -> QuantGraphModule:
    """Returns ``model`` quantized as ``config_file`` says, in float state; draws float.svg and quant.svg beside it.

    Args:
      config_file: JSON made by ``create_quant_config_fx``.
      model: Float model; it is not changed.
      input_data: As in ``create_quant_config_fx``; the float graph is compared with ``model`` on it.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The configuration is wrong, does not fit the model or enables no layer.
      UnsupportedModelError: The model cannot be copied or traced, or is quantized already.
    """
    function = "create_quant_model_fx"
    path, model = check_existing(function, "config_file", config_file), check_model(function, model)
    with strictness(strict):
        return static.quantize(path, model, as_example(input_data))


@in_full_precision
def restore_quant_model_fx(
    config_file: str | Path,
    model: nn.Module,
    pth_file: str | Path,
    state_dict_name: str | None = None,
    *,
    input_data: Any = None,
    strict: bool | None = None,
) -> QuantGraphModule:
    """Returns the quantized model whose state was saved in ``pth_file``, in float state (spec 2.3).

    Args:
      config_file: The configuration the saved model was made with.
      model: A fresh float model; it is not changed.
      pth_file: ``torch.save`` of the quantized model's ``state_dict()``, or of a dict that holds one.
      state_dict_name: Key of the state_dict in such a dict.
      input_data: As in ``create_quant_config_fx``; if it was given there, give it here too.
      strict: Whether a layer, type or key in the configuration that matches nothing raises a ConfigError instead of a
        WARNING. None: the environment variable AMCT_STRICT decides (spec 7.3).

    Raises:
      ConfigError: The key is missing, or the state does not fit the model and configuration.
    """
    function = "restore_quant_model_fx"
    path, model = check_existing(function, "config_file", config_file), check_model(function, model)
    checkpoint = check_existing(function, "pth_file", pth_file)
    check_type(function, "state_dict_name", state_dict_name, (str, type(None)), "a string or None")
    with strictness(strict):
        quantized = static.quantize(path, model, as_example(input_data), draws=False)
    load_checkpoint(quantized, checkpoint, state_dict_name)
    return quantized


@in_full_precision
def enable_quantization(
    model: nn.Module, calibration: bool = False, fake_quant: bool = False, real_quant: bool = False
) -> None:
    """Switches every quantized graph inside ``model`` to one of its states (spec 2.1).

    All False: float. ``calibration``: observers collect ranges. ``calibration`` and ``fake_quant``: pre-calibration of
    training. ``fake_quant``: quantized and dequantized. ``real_quant``: the integers of the chip.

    A model of the dynamic path starts in calibration and switches to fake_quant when calibration is complete. It may be
    switched to float, fake_quant or real_quant too; calibration does not count forwards in these states.
    ``calibration=True`` returns it to its own sequence.

    Raises:
      ConfigError: Another combination, or no quantized model inside ``model``.
      UnsupportedModelError: ``model`` is, or contains, a quantized model in DataParallel.
    """
    function = "enable_quantization"
    check_model(function, model)
    for name, value in (("calibration", calibration), ("fake_quant", fake_quant), ("real_quant", real_quant)):
        check_type(function, name, value, bool, "a bool")
    mode = Mode.of(calibration, fake_quant, real_quant)
    for quantized in switchable_inside(function, model):
        if isinstance(quantized, QuantGraphModule) and mode in (Mode.FAKE_QUANT, Mode.REAL_QUANT):
            refine_if_asked(quantized)
            log_calibrated_advice(quantized)
        if isinstance(quantized, QuantGraphModule) and mode is Mode.CALIBRATION:
            warn_of_finished_calibration(quantized)
        quantized.mode = mode


def enable_dump(model: nn.Module, dump_dir: str | Path | None = None, dump_format: str | None = None) -> None:
    """Makes the next forward of ``model`` write the result of every node to a file, once (spec 11.8).

    Args:
      model: Quantized model, in any state.
      dump_dir: Folder, default ``./dump``.
      dump_format: ``.npy`` (default), ``.float`` or ``.txt``, with or without the dot.

    Raises:
      ConfigError: Another format, or no quantized graph inside ``model``.
    """
    function = "enable_dump"
    check_model(function, model)
    folder = check_folder(function, "dump_dir", "./dump" if dump_dir is None else dump_dir)
    check_type(function, "dump_format", dump_format, (str, type(None)), "a string or None")
    dumper = Dumper(folder, dump_format or ".npy")
    for quantized in quantized_inside(function, model):
        quantized.watch_next_forward(lambda node: dumper.write(node.name, node.value))


@in_full_precision
def save_quant_model_fx(
    model: nn.Module,
    save_path: str | Path,
    input_data: Any,
    onnx_export_setting: dict[str, Any] | None = None,
    *,
    golden_inputs: Any = None,
) -> None:
    """Writes the deploy, fake_quant and float ONNX models, the parameter files and the record (spec 2.4, 11).

    Args:
      model: Calibrated quantized model, in any state and on any device; it is not changed.
      save_path: Folder and name prefix of the files; folders are made.
      input_data: Example input, a tensor or the positional arguments of the forward.
      onnx_export_setting: Keyword arguments of ``torch.onnx.export``, such as ``input_names`` or ``dynamic_axes``.
      golden_inputs: Inputs, in the form of ``input_data``, for which ``<save_path>_golden.npz`` is also written: the
        digests of every layer's integers, for ``python -m hotwheels.amct_pytorch verify``. None: no golden file.

    Raises:
      CalibrationError: Layers are not calibrated; the text names them.
      ExportError: The model cannot be written as ONNX. Files of an earlier save are not changed.
    """
    function = "save_quant_model_fx"
    quantized = the_quantized_graph(function, check_model(function, model))
    check_prefix(function, save_path)
    golden = None if golden_inputs is None else as_inputs(golden_inputs)
    if golden is not None:
        check_call(function, "argument 'golden_inputs'", golden, quantized, ExportError)
    written = static.save(quantized, save_path, as_inputs(input_data), onnx_export_setting, golden)
    _log.info("Wrote %s.", ", ".join(f"'{path}'" for path in written))
