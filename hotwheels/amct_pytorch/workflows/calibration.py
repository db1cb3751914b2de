"""The implementation of post-training quantization on the dynamic path; importing it loads onnx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..backends.batches.batch_store import copied
from ..backends.dynamic.backend import DynamicBackend
from ..backends.dynamic.read.float_model import read_settings
from ..backends.dynamic.read.folding import Fusion
from ..backends.dynamic.session.bn_update import BnUpdate
from ..backends.dynamic.session.calibration_session import CalibrationSession, FloatFile, SessionPlan
from ..backends.dynamic.session.mode_switch import UNCOUNTED
from ..backends.dynamic.session.session_forward import attach_session, find_session, session_inside
from ..config.dynamic.calibration_config import (
    CalibrationConfig,
    read_calibration_config,
    read_calibration_globals,
    to_quant_config,
    write_calibration_config,
)
from ..config.dynamic.expand_dynamic import expand_calibration
from ..config.dynamic.simple_cfg import SimpleCalibrationConfig
from ..core.host_memory import keep_freed_memory_for
from ..errors import ExportError
from ..export.save import write_files
from ..files import FileSet, PathLike
from ..files.naming import error_in_file
from ..files.seal import check_record_partners, sealed_set
from ..log import get_logger
from ..onnx_io.model_file import load_model
from ..record.text_proto import read_record
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
from .float_file import write_float_file
from .planning import checked_plan, refuse
from .refine.refine_dynamic import ConfiguredRefinement

_log = get_logger(__name__)
# Key in the metadata of the float model, from which a save reads the setting: it does not get the configuration.
_UPDATE_BN = "update_bn"
_FORMS = {_UPDATE_BN: bool, WEIGHTED: list, USES: dict}


def write_config(path: Path, model: nn.Module, inputs: tuple[Any, ...], simple: SimpleCalibrationConfig) -> int:
    """Writes the configuration of ``model`` that follows from ``simple``; returns the number of its layers."""
    backend = DynamicBackend(model, inputs)
    graph = backend.graph(Fusion(is_on=simple.do_fusion, skipped=simple.skip_fusion_layers))
    write_calibration_config(expand_calibration(graph, simple), path)
    return len(graph.layers)


def quantize(
    config_path: Path,
    onnx_path: Path,
    record_path: Path,
    model: nn.Module,
    inputs: tuple[Any, ...],
    setting: Mapping[str, Any],
) -> nn.Module:
    """Returns the quantized model in its first phase, and writes the float model and the first record.

    Nothing is written if the configuration breaks a rule of the hardware. ``setting`` has the arguments of the export.
    """
    keep_freed_memory_for(model)
    given = read_calibration_globals(config_path)
    backend = DynamicBackend(model, inputs, export_setting=setting)
    fusion = Fusion(is_on=given.do_fusion, skipped=given.skip_fusion_layers)
    graph = backend.graph(fusion)
    config = read_calibration_config(config_path, graph)
    quantizers = to_quant_config(config, graph)
    plan = checked_plan(graph, quantizers, config_path, refuse)
    float_file = FloatFile(
        path=onnx_path,
        inputs=copied(inputs),
        setting=setting,
        fusion=fusion,
        plan=plan,
        settings={_UPDATE_BN: config.update_bn, WEIGHTED: weighted_layers(plan), USES: further_uses(plan)},
    )
    with FileSet() as files:
        folds, partners = write_float_file(float_file, backend, graph, files)
        session_plan = SessionPlan(
            batch_num=config.batch_num,
            record_file=record_path,
            float_file=float_file,
            partners=partners,
            shifted=shifted_layers(graph),
            unfused=frozenset(config.skip_fusion_layers),
            folds=folds,
            bn_update=_bn_update(config, backend.standing_norms(folds)),
            pictures=0 if config.refine is None else config.refine.pictures,
            when_calibrated=None if config.refine is None else ConfiguredRefinement(config.refine),
        )
        with error_in_file(config_path):
            quantized, layers = backend.place(plan, updates_batch_norms=config.update_bn)
        session = CalibrationSession(layers, session_plan, files)
    session.note_written_weights(quantized)
    attach_session(_in_eval(quantized), session, backend.takes_other_floats)
    return quantized


def save(onnx_path: Path, record_path: Path, prefix: PathLike, model: nn.Module | None) -> tuple[Path, ...]:
    """Writes the deploy pair and the fake_quant model; returns the paths. Only ``update_bn`` needs ``model``.

    Raises:
      ExportError: The weights of ``model`` are not those in the file at ``onnx_path``.
    """
    float_model, record = load_model(onnx_path), read_record(record_path)
    check_record_partners(record_path, onnx_path)
    _refuse_changed_weights(model, onnx_path)
    advice = (
        f"Run at least batch_num forwards of the model which quantize_model returned before save_model. {UNCOUNTED}"
    )
    with error_in_file(onnx_path):
        settings = read_settings(float_model, onnx_path, _FORMS)
        require_complete(float_model, settings, record, record_path, advice)
    updated = record
    if settings.get(_UPDATE_BN):
        updated = _needed_session(model).fold_present_state(float_model, record)
    with error_in_file(onnx_path), sealed_set(prefix, reads=(onnx_path, record_path)) as files:
        write_files(files, float_model, for_each_use(updated, float_model, settings), prefix)
        if updated != record:
            write_update(updated, record_path, files)
    return files.paths


def _bn_update(config: CalibrationConfig, standing: Mapping[str, nn.Module]) -> BnUpdate | None:
    if not config.update_bn:
        return None
    return BnUpdate(momentum=config.bn_update_config.bn_momentum, standing=standing)


def _in_eval(model: nn.Module) -> nn.Module:
    if model.training:
        _log.warning(
            "The model is in training mode. The quantized model is in eval mode: BatchNorms that change while it is"
            " calibrated would not fit the factors. Use update_bn to let them follow quantized weights."
        )
    return model.eval()


def _refuse_changed_weights(model: nn.Module | None, onnx_path: Path) -> None:
    found = None if model is None else session_inside(model, CalibrationSession)
    changed = [] if found is None else found[1].weights_not_written(found[0])
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ExportError(
            f"save_model: '{changed[0]}'{more} of the model changed after quantize_model, but '{onnx_path}' has the"
            " weights of that call. Call quantize_model again with the float model that has the new weights, and"
            " calibrate it; create_quant_retrain_model is for training. Without the model as argument the weights of"
            " the file are saved."
        )


def _needed_session(model: nn.Module | None) -> CalibrationSession:
    if model is None:
        raise TypeError(
            "save_model: argument 'calibration_torch_model' must be the model which quantize_model returned, got None:"
            " with update_bn the statistics of its BatchNorms are needed."
        )
    return find_session("save_model", model, CalibrationSession, ("quantize_model",))[1]
