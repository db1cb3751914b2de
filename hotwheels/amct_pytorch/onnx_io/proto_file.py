"""ONNX files as protobuf messages, checked before anything is made of what they claim (docs/security.md)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from ..errors import ModelFileError
from ..files import PathLike, check_input_file
from ..files.limits import ONNX_FILE, ONNX_PARTS, check_holes, read_limited

_Functions = Mapping[tuple[str, str], onnx.FunctionProto]


def read_proto(path: PathLike, *, with_external_data: bool = True) -> onnx.ModelProto:
    """Returns the model in the file ``path``.

    Args:
      path: File in ONNX' binary format.
      with_external_data: Whether tensors that lie in other files are read into the model.

    Raises:
      FileNotFoundError: There is no such file.
      ModelFileError: It is no ONNX model or beyond a limit; or a tensor has another number of bytes than its shape
        says, or lies in a file that is missing or outside the folder of the model.
    """
    path = check_input_file(path, "ONNX model")
    try:
        model = onnx.load_model_from_string(read_limited(path, ONNX_FILE, ModelFileError))
    except ModelFileError:
        raise
    except Exception as error:  # protobuf's errors have no class that onnx exports
        raise ModelFileError(f"'{path}' is not an ONNX model that can be read: {_one_line(error)}.") from error
    if not model.HasField("graph"):
        raise ModelFileError(f"'{path}' is not an ONNX model that can be read: it has no graph.")
    try:
        _check_size(model, path)
        for graph in (model.graph, *model.functions):
            _check_names(graph, path)
    except RecursionError as error:
        raise ModelFileError(f"'{path}' has graphs or local functions that are nested too deeply.") from error
    for tensor in _tensors(model):
        problem = _problem(tensor, path.parent)
        if problem is not None:
            raise ModelFileError(f"'{path}': tensor '{tensor.name:.80}' {problem}.")
        if with_external_data and _is_external(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))
    return model


def has_external_data(model: onnx.ModelProto) -> bool:
    """Whether a tensor of ``model`` lies in another file."""
    return any(map(_is_external, _tensors(model)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _check_size(model: onnx.ModelProto, path: Path) -> None:
    """Raises ModelFileError for more parts than anything can be done with, local functions written out."""
    parts = _parts(model.graph) + sum(_parts(function) for function in model.functions)
    ONNX_PARTS.check(parts, path, ModelFileError)
    functions = {(one.domain, one.name): one for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    for graph in (model.graph, *model.functions):
        if sum(_written_out(node, functions, sizes, path) for node in _all_nodes(graph)) > ONNX_PARTS.most:
            raise ModelFileError(f"'{path}' has local functions that stand for more than {ONNX_PARTS.most:,} nodes.")


def _written_out(node: onnx.NodeProto, functions: _Functions, sizes: dict[tuple[str, str], int], path: Path) -> int:
    """Returns how many nodes ``node`` is once functions are inlined; ``sizes`` has 0 for functions being looked at."""
    key = (node.domain, node.op_type)
    if key not in functions:
        return 1
    if sizes.get(key) == 0:
        raise ModelFileError(f"'{path}' has a local function that calls itself: '{node.op_type:.80}'.")
    if key not in sizes:
        sizes[key] = 0
        sizes[key] = 1 + sum(_written_out(one, functions, sizes, path) for one in _all_nodes(functions[key]))
    return sizes[key]


def _check_names(graph: onnx.GraphProto | onnx.FunctionProto, path: Path) -> None:
    """Raises ModelFileError for a name that is not UTF-8: protobuf gives bytes, which nothing here takes."""
    names: list[Any] = [
        name for node in graph.node for name in (node.name, node.op_type, node.domain, *node.input, *node.output)
    ]
    names += [attribute.name for node in graph.node for attribute in node.attribute]
    if isinstance(graph, onnx.GraphProto):
        names += [one.name for field in (graph.initializer, graph.input, graph.output) for one in field]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ModelFileError(f"'{path}' has a name that is not UTF-8: {wrong!r:.80}.")
    for inner in _inner_graphs(graph):
        _check_names(inner, path)


def _parts(graph: onnx.GraphProto | onnx.FunctionProto) -> int:
    count = len(graph.node)
    if isinstance(graph, onnx.GraphProto):
        count += len(graph.initializer) + len(graph.value_info) + len(graph.input) + len(graph.output)
    for node in graph.node:
        count += len(node.input) + len(node.output) + len(node.attribute)
    return count + sum(_parts(inner) for inner in _inner_graphs(graph))


def _all_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    yield from graph.node
    for inner in _inner_graphs(graph):
        yield from _all_nodes(inner)


def _inner_graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto]:
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors_of(model.graph)
    for function in model.functions:
        yield from _tensors_of(function)


def _tensors_of(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
    for inner in _inner_graphs(graph):
        yield from _tensors_of(inner)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _problem(tensor: onnx.TensorProto, folder: Path) -> str | None:
    """Returns what is wrong with the values of a tensor, None if nothing is."""
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    if tensor.data_type not in _TYPES:
        return f"has the unknown element type {tensor.data_type}"
    if tensor.data_type == onnx.TensorProto.STRING:
        return "holds strings in another file, or in bytes" if _has_bytes(tensor) else _field_problem(tensor)
    expected = (math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth + 7) // 8
    if _is_external(tensor):
        return _external_problem(tensor, expected, folder)
    if not tensor.HasField("raw_data"):
        return _field_problem(tensor)
    if len(tensor.raw_data) != expected:
        return f"has {len(tensor.raw_data):,} bytes; {list(tensor.dims)} needs {expected:,}"
    return None


def _has_bytes(tensor: onnx.TensorProto) -> bool:
    return _is_external(tensor) or tensor.HasField("raw_data")


_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def _field_problem(tensor: onnx.TensorProto) -> str | None:
    try:
        onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # of NumPy and onnx, for a number of values that does not fit
        return f"cannot be read: {_one_line(error)}"
    return None


def _external_problem(tensor: onnx.TensorProto, expected: int, folder: Path) -> str | None:
    try:
        info = ExternalDataInfo(tensor)
        offset = info.offset or 0
        real, home = os.path.realpath(folder / info.location), os.path.realpath(folder)
    except (ValueError, TypeError) as error:  # of numbers, or a null character
        return f"has external data that cannot be read: {_one_line(error)}"
    if os.path.isabs(info.location) or os.path.commonpath((real, home)) != home:
        return f"lies in a file outside the folder of the model: '{info.location:.200}'"
    if not os.path.isfile(real):
        return f"lies in '{info.location:.200}', which is missing"
    check_holes(Path(real), ModelFileError)
    size = os.path.getsize(real)
    # Without a length onnx reads all that follows.
    length = max(expected, size - offset) if info.length is None else info.length
    if length != expected or offset < 0 or offset + length > size:
        return (
            f"wants {length:,} bytes at {offset:,} of '{info.location:.200}', which has {size:,}; it needs {expected:,}"
        )
    return None
