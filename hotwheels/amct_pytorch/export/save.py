"""Writes what leaves the SDK: the files of spec 11.1."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from ..files import PathLike, write_bytes_atomic, write_text_atomic
from ..onnx_io.custom_domain import lower_custom_domain
from ..onnx_io.layer_sites import read_sites
from ..onnx_io.model_file import save_model
from ..record import calibration_param
from ..record.record import Record
from ..record.text_proto import write_record
from .deploy import build_deploy
from .fake_quant import build_fake_quant
from .layers import copy_model, finish


def write_files(
    float_model: ir.Model,
    record: Record,
    prefix: PathLike,
    *,
    with_float_model: bool = False,
    with_record: bool = False,
) -> tuple[Path, ...]:
    """Writes the deploy pair and the fake-quant model and returns the paths written.

    The models are built before the first file is written: a record that does not fit leaves older files as they were.

    Args:
        float_model: Float model whose markers are resolved; not changed.
        record: Quantization parameters.
        prefix: Start of the file names, ``<prefix>_deploy_model.onnx``; with a path separator at its end, the folder of
          files with the bare names.
        with_float_model: Whether to write ``<prefix>_float_model.onnx``, too (spec 11.6).
        with_record: Whether to write ``<prefix>_scale_offset_record.txt``, too.

    Raises:
        ExportError: The record does not fit the model, or ONNX's checker refuses a result.
    """
    sites = read_sites(float_model)
    deploy, params = build_deploy(float_model, sites, record)
    models = {"deploy_model": deploy, "fake_quant_model": build_fake_quant(float_model, sites, record)}
    if with_float_model:
        models["float_model"] = build_float(float_model)
    paths = {name: output_path(prefix, f"{name}.onnx") for name in models}
    for name, model in models.items():
        save_model(model, paths[name])
    text, binary = output_path(prefix, "quant_param_record.txt"), output_path(prefix, "quant_param_record.bin")
    write_text_atomic(text, calibration_param.to_text(params))
    write_bytes_atomic(binary, calibration_param.to_binary(params))
    written = (*paths.values(), text, binary)
    return (*written, _write_record(record, prefix)) if with_record else written


def output_path(prefix: PathLike, name: str) -> Path:
    """Returns ``<prefix>_<name>``, or ``<prefix><name>`` where ``prefix`` ends in a path separator (spec 11.1)."""
    text = os.fspath(prefix)
    is_folder = not text or text.endswith(tuple(filter(None, (os.sep, os.altsep))))
    return Path(f"{text}{name}" if is_folder else f"{text}_{name}")


def build_float(float_model: ir.Model) -> ir.Model:
    """Returns a copy of ``float_model`` that stock onnxruntime runs: ``custom_domain`` operators as standard ones."""
    model = copy_model(float_model)
    lower_custom_domain(model)
    return finish(model)


def _write_record(record: Record, prefix: PathLike) -> Path:
    path = output_path(prefix, "scale_offset_record.txt")
    write_record(record, path)
    return path
