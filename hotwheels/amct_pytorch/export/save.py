"""Writes the exported files of spec 11.1."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import onnx_ir as ir

from ..files import FileSet, PathLike, output_path
from ..files.seal import (
    DEPLOY_MODEL,
    FAKE_QUANT_MODEL,
    FLOAT_MODEL,
    PARAMETERS_BINARY,
    PARAMETERS_TEXT,
    RECORD,
)
from ..onnx_io.custom_domain import lower_custom_domain
from ..onnx_io.layer_sites import read_sites
from ..onnx_io.model_file import prepared_write
from ..record import calibration_param
from ..record.record import Record
from ..record.text_proto import write_record
from .deploy import build_deploy
from .fake_quant import build_fake_quant
from .layers import copy_model, finish

_THREADS = 3  # one for each model; they mostly wait for the disk


def write_files(
    files: FileSet,
    float_model: ir.Model,
    record: Record,
    prefix: PathLike,
    *,
    with_float_model: bool = False,
    with_record: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Adds the deploy pair and the fake-quant model to ``files``.

    Args:
        files: The files of the save.
        float_model: Float model whose markers are resolved; not changed.
        record: Quantization parameters.
        prefix: Start of the file names, ``<prefix>_deploy_model.onnx``; if it ends with a path separator, the folder
          for files named ``deploy_model.onnx`` etc.
        with_float_model: Whether to write ``<prefix>_float_model.onnx`` too (spec 11.6).
        with_record: Whether to write ``<prefix>_scale_offset_record.txt`` too.
        meanwhile: A function that is called while threads write the models, such as a check of ``float_model``.

    Raises:
        ExportError: The record does not fit the model, or ONNX's checker refuses a result.
    """
    sites = read_sites(float_model)
    deploy, params = build_deploy(float_model, sites, record)
    with _ModelWriter(files) as models:
        models.write(deploy, output_path(prefix, DEPLOY_MODEL))
        models.write(build_fake_quant(float_model, sites, record), output_path(prefix, FAKE_QUANT_MODEL))
        if with_float_model:
            models.write(build_float(float_model), output_path(prefix, FLOAT_MODEL))
        if meanwhile is not None:
            meanwhile()
        files.write_text(output_path(prefix, PARAMETERS_TEXT), calibration_param.to_text(params))
        files.write_bytes(output_path(prefix, PARAMETERS_BINARY), calibration_param.to_binary(params))
        if with_record:
            write_record(record, output_path(prefix, RECORD), files)


class _ModelWriter:
    """Writes, digests and syncs models in threads, while the block builds the next ones; most of both is no Python."""

    def __init__(self, files: FileSet) -> None:
        self._files = files
        self._pool = futures.ThreadPoolExecutor(_THREADS)
        self._jobs: list[futures.Future[None]] = []

    def write(self, model: ir.Model, path: PathLike) -> None:
        """Checks ``model`` now and writes it later; see `model_file.save_model`."""
        write = prepared_write(model, path, self._files)
        self._jobs.append(self._pool.submit(self._run, write))

    def _run(self, write: Callable[[], list[Path]]) -> None:
        for path in write():
            self._files.digest(path)
            self._files.sync(path)

    def __enter__(self) -> _ModelWriter:
        """Returns the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits until all models are written; raises the first error."""
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for job in self._jobs:
                job.result()


def build_float(float_model: ir.Model) -> ir.Model:
    """Returns a copy of ``float_model`` that stock onnxruntime runs: standard operators replace ``custom_domain``."""
    model = copy_model(float_model)
    lower_custom_domain(model)
    return finish(model)
