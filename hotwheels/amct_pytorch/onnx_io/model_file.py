"""ONNX models as files: read, checked before they are written, never half written."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from ..errors import ExportError
from ..files import PathLike, check_input_file, write_bytes_atomic

# One protobuf message ends at 2 GB; a larger model keeps its tensors in a second file. The margin is for the nodes.
_LARGEST_MESSAGE = 2**31 - 2**26


def load_model(path: PathLike) -> ir.Model:
    """Returns the ONNX model in the file ``path``.

    Raises:
        FileNotFoundError: There is no such file.
        ExportError: It is not an ONNX model.
    """
    path = check_input_file(path, "ONNX model")
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's and onnx_ir's errors have no common class
        raise ExportError(f"'{path}' is not an ONNX model that can be read: {error}") from error


def save_model(model: ir.Model, path: PathLike) -> None:
    """Checks ``model`` and writes it to ``path`` in one step; above 2 GB the tensors go into ``<path>.data``.

    Raises:
        ExportError: ONNX's checker refuses the model; the message names the file and the node.
    """
    path = Path(path)
    if _bytes_of(model) < _LARGEST_MESSAGE:
        content = _serialize(model, path).SerializeToString(deterministic=True)
        with _named(path):
            onnx.checker.check_model(content, full_check=True)
        write_bytes_atomic(path, content)
    else:
        _save_large(model, path)


def _bytes_of(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _serialize(model: ir.Model, path: Path) -> onnx.ModelProto:
    try:
        return ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise ExportError(f"'{path}' cannot be written: {error}") from error


def _save_large(model: ir.Model, path: Path) -> None:
    """The checker wants the files of a large model, so they are written to a folder beside ``path`` and then moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{uuid.uuid4().hex}.tmp")
    folder.mkdir()
    try:
        ir.save(model, folder / path.name, external_data=f"{path.name}.data")
        with _named(path):
            onnx.checker.check_model(folder / path.name, full_check=True)
        for name in (f"{path.name}.data", path.name):
            os.replace(folder / name, path.with_name(name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """The checker's text says which node is wrong; this adds which file."""
    try:
        yield
    except (onnx.checker.ValidationError, InferenceError) as error:
        raise ExportError(f"'{path}' was not written, ONNX's checker refuses the model: {error}") from error


def parse_model(content: bytes) -> ir.Model:
    """Returns the ONNX model that an exporter wrote into ``content``."""
    return ir.from_proto(onnx.load_from_string(content))


def name_outputs(model: ir.Model) -> None:
    """Names the graph outputs ``output``, or ``output_0``, ``output_1``, ... for several (SPEC 2.4), in place."""
    outputs = model.graph.outputs
    for index, value in enumerate(outputs):
        value.name = "output" if len(outputs) == 1 else f"output_{index}"
