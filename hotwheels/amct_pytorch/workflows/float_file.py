"""The float ONNX file of a calibrated model of the dynamic path, and the record that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..backends.dynamic.backend import DynamicBackend
from ..backends.dynamic.read.float_model import Fold
from ..backends.dynamic.session.calibration_session import CalibrationSession, FloatFile
from ..files import FileSet
from ..files.seal import record_partners
from ..graph import OpGraph
from ..onnx_io.model_file import save_model
from ..oracle.dynamic_sizes import check_float_file
from .original_model import backend_of_quantized


def write_changed_weights(model: nn.Module, session: CalibrationSession) -> None:
    """Writes the float model and the record of a calibrated ``model`` again, with its present weights and factors."""
    file = session.plan.float_file
    assert file is not None
    backend = backend_of_quantized(model, session.container, file.inputs, file.setting)
    with FileSet() as files:
        _, partners = write_float_file(file, backend, backend.graph(file.fusion), files)
        session.write_record(files, partners)
    session.note_written_weights(model)


def write_float_file(
    file: FloatFile, backend: DynamicBackend, graph: OpGraph, files: FileSet
) -> tuple[tuple[Fold, ...], Mapping[str, str]]:
    """Adds the float model to ``files``; returns its folds, and the digests for the record that belongs to it."""
    folds = backend.folds(graph)
    float_model = backend.float_model(file.plan, folds, file.settings)
    check_float_file(float_model, backend.float_forward(folds))
    save_model(float_model, file.path, files)
    return folds, record_partners(files, file.path)
