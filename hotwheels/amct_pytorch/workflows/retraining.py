"""The implementation of quantization-aware training on the dynamic path; importing it loads onnx."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..backends.dynamic.backend import DynamicBackend
from ..backends.dynamic.session.mode_switch import UNCOUNTED
from ..backends.dynamic.session.record_file import RecordFile
from ..backends.dynamic.session.retrain_session import RetrainSession
from ..backends.dynamic.session.session_forward import attach_session, find_session
from ..config.dynamic.expand_dynamic import expand_retrain
from ..config.dynamic.retrain_config import RetrainConfig, read_retrain_config, to_quant_config, write_retrain_config
from ..config.dynamic.simple_cfg import SimpleRetrainConfig
from ..core.host_memory import keep_freed_memory_for
from ..errors import CalibrationError, ConfigError, RecordError
from ..export.save import write_files
from ..files import PathLike
from ..files.naming import error_in_file
from ..files.seal import sealed_set
from ..graph import OpGraph
from ..log import get_logger
from ..oracle.dynamic_sizes import check_float_file
from ..plan.quant_plan import QuantPlan
from ..record import LayerRecord, Record
from ..record.text_proto import read_record, write_record
from .checkpoint import load_checkpoint
from .dynamic_rules import (
    USES,
    WEIGHTED,
    for_each_use,
    further_uses,
    require_complete,
    shifted_layers,
    weighted_layers,
    write_update,
)
from .original_model import backend_of_quantized
from .planning import checked_plan, refuse

_log = get_logger(__name__)
_MADE_BY = ("create_quant_retrain_model", "restore_quant_retrain_model")
_EXPORT = (
    f"Run at least batch_num forwards of the trained model in eval mode before save_quant_retrain_model. {UNCOUNTED}"
)


def write_config(path: Path, model: nn.Module, inputs: tuple[Any, ...], simple: SimpleRetrainConfig | None) -> int:
    """Writes the configuration of ``model`` that follows from ``simple``; returns the number of its layers."""
    backend = DynamicBackend(model, inputs)
    graph = backend.graph()
    config = expand_retrain(graph, simple)
    write_retrain_config(config, path)
    return len(graph.layers)


def quantize(config_path: Path, record_path: Path, model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """Returns the quantized model, ready to be trained, and writes the first record.

    Nothing is written if the configuration breaks a rule of the hardware.
    """
    keep_freed_memory_for(model)
    backend = DynamicBackend(model, inputs)
    graph = backend.graph()
    config, plan = _planned(config_path, graph)
    with error_in_file(config_path):
        quantized, layers = backend.place(plan)
    record_file = RecordFile(record_path, layers)
    session = RetrainSession(layers, record_file, config.batch_num, shifted_layers(graph))
    attach_session(quantized, session, backend.takes_other_floats)
    return quantized


def former_record(path: Path) -> Record | None:
    """Returns the record at ``path``; None if there is none that can be read."""
    try:
        return read_record(path)
    except (OSError, RecordError):
        return None


def restore(model: nn.Module, checkpoint: Path, state_dict_name: str | None, former: Record | None) -> None:
    """Loads the state in ``checkpoint`` into ``model``, made by `quantize`, and writes its record.

    ``former`` is the record that was there before; it is kept if it is one of this state.
    """
    load_checkpoint(model, checkpoint, state_dict_name)
    _, session = find_session("restore_quant_retrain_model", model, RetrainSession, _MADE_BY)
    session.take_loaded_state(former)


def save(
    config_path: Path,
    model: nn.Module,
    record_path: Path,
    prefix: PathLike,
    inputs: tuple[Any, ...],
    setting: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Writes the deploy pair and the fake_quant model of the trained ``model``; returns the paths."""
    quantized, session = find_session("save_quant_retrain_model", model, RetrainSession, _MADE_BY)
    record = read_record(record_path)
    if session.is_of_copy and session.is_exported:
        record = dataclasses.replace(record, layers=session.known_factors())
        write_record(record, record_path)
    backend = backend_of_quantized(quantized, session.container, inputs, setting)
    graph = backend.graph()
    _, plan = _planned(config_path, graph)
    if plan.layers.keys() != session.layers.keys():
        names = ", ".join(sorted(plan.layers.keys() ^ session.layers.keys()))
        raise ConfigError(
            f"'{config_path}' is not the configuration of this model. Layers that only one of them quantizes: {names}."
        )
    settings = {WEIGHTED: weighted_layers(plan), USES: further_uses(plan)}
    folds = backend.folds(graph)
    float_model = backend.float_model(plan, folds, settings)
    check_float_file(float_model, backend.float_forward(folds))
    require_complete(float_model, settings, record, record_path, _EXPORT)
    trained = _with_present_weights(record, session.known_factors(), record_path)
    with sealed_set(prefix, reads=(config_path, record_path)) as files:
        write_files(files, float_model, for_each_use(trained, float_model, settings), prefix)
        if trained != record:
            write_update(trained, record_path, files)
    return files.paths


def _planned(config_path: Path, graph: OpGraph) -> tuple[RetrainConfig, QuantPlan]:
    config = read_retrain_config(config_path, graph)
    quantizers = to_quant_config(config, graph)
    return config, checked_plan(graph, quantizers, config_path, refuse)


def _with_present_weights(record: Record, present: Mapping[str, LayerRecord], path: Path) -> Record:
    """Returns ``record``, read from ``path``, with the present factors of the weights.

    Raises:
      CalibrationError: Ranges of data have changed; shift bits and evaluated accuracy belong to the old ranges.
    """
    changed = [name for name, one in present.items() if one.activations != record.layers[name].activations]
    if changed:
        raise CalibrationError(
            f"The ranges of {len(changed)} layers have changed since their factors were written to '{path}':"
            f" {', '.join(changed)}. {_EXPORT}"
        )
    weights = {name: dataclasses.replace(record.layers[name], weight=one.weight) for name, one in present.items()}
    return Record({**record.layers, **weights})
