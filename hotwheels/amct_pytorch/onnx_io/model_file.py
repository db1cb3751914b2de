"""ONNX models as files: read, checked before they are written, written completely or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from ..errors import ExportError, ModelFileError
from ..files import FileSet, PathLike, part_of
from .proto_file import has_external_data, read_proto
from .wire_format import write_values, write_with_tensors

# A protobuf message holds at most 2 GB; a larger model has its tensors in a second file. The margin is for the nodes.
_LARGEST_MESSAGE = 2**31 - 2**26
_SMALLEST = 1 << 14  # bytes; larger tensors are written without a copy


def load_model(path: PathLike) -> ir.Model:
    """Returns the ONNX model in the file ``path``; tensors in other files stay there.

    Raises:
        FileNotFoundError: There is no such file.
        ModelFileError: See `read_proto`.
    """
    proto = read_proto(path, with_external_data=False)
    try:
        onnx.checker.check_model(str(path) if has_external_data(proto) else proto)
        model = ir.from_proto(proto)
    except Exception as error:  # those of onnx_ir and of the checker have no common class
        text = " ".join(str(error).split())
        raise ModelFileError(f"'{path}' is not an ONNX model that can be read: {text:.500}") from error
    ir.external_data.set_base_dir(model.graph, Path(path).parent)
    return model


def save_model(model: ir.Model, path: PathLike, files: FileSet | None = None) -> None:
    """Checks ``model`` and adds it to ``files`` as ``path``; above 2 GB the tensors go into ``<path>.data``.

    Without ``files`` the model is written at once.

    Raises:
        ExportError: ONNX's checker refuses the model; the message names the file and the node.
    """
    with part_of(files) as written:
        prepared_write(model, path, written)()


def prepared_write(model: ir.Model, path: PathLike, files: FileSet) -> Callable[[], list[Path]]:
    """Checks ``model``, adds the files of `save_model` to ``files``, and returns the function that writes them.

    Another thread may call the function, which returns the paths of the files. ``model`` must not be changed before.

    Raises:
        ExportError: See `save_model`.
    """
    path = Path(path)
    large = _large_tensors(model)
    data = path.with_name(f"{path.name}.data")
    proto = _without(large, model, path, data.name)
    with _named(path):
        onnx.checker.check_model(_with_inputs_for(large, proto), full_check=True)
    is_large = sum(tensor.nbytes for tensor in large.values()) >= _LARGEST_MESSAGE
    paths = [data, path] if is_large else [path]
    for one in paths:
        files.add(one)

    def write() -> list[Path]:
        if is_large:
            with files.open(data) as file:
                for tensor in large.values():
                    write_values(tensor, file)
            files.write_bytes(path, proto.SerializeToString(deterministic=True))
        else:
            with files.open(path) as file:
                write_with_tensors(proto, large, file)
        return paths

    return write


def _large_tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Returns the initializers that are written directly from their own memory, by name."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor is not None and tensor.nbytes >= _SMALLEST and tensor.dtype != ir.DataType.STRING
    }


def _without(large: Mapping[str, ir.TensorProtocol], model: ir.Model, path: Path, location: str) -> onnx.ModelProto:
    """Returns ``model`` with references to the file ``location`` instead of the values of the ``large`` tensors."""
    initializers, offset = model.graph.initializers, 0
    try:
        for name, tensor in large.items():
            initializers[name].const_value = ir.ExternalTensor(
                location, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
            offset += tensor.nbytes
        return ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise ExportError(f"'{path}' cannot be written: {error}") from error
    finally:
        for name, tensor in large.items():
            initializers[name].const_value = tensor


def _with_inputs_for(large: Mapping[str, ir.TensorProtocol], proto: onnx.ModelProto) -> bytes:
    """Returns a model for the checker, in which the ``large`` tensors are inputs.

    The checker only uses their shapes and types. With the tensors themselves, it would read files that do not exist
    yet, or need all values in one message of at most 2 GB.
    """
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    for field in (checked.graph.initializer, checked.graph.value_info):
        kept = [item for item in field if item.name not in large]
        del field[:]
        field.extend(kept)
    inputs = {value.name for value in checked.graph.input}
    checked.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, int(tensor.dtype), list(tensor.shape.numpy()))
        for name, tensor in large.items()
        if name not in inputs
    )
    return bytes(checked.SerializeToString())


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Returns a context that adds the file's name to errors of ONNX's checker, which name the node only."""
    try:
        yield
    except (onnx.checker.ValidationError, InferenceError) as error:
        raise ExportError(f"'{path}' was not written, ONNX's checker refuses the model: {error}") from error


def parse_model(content: bytes) -> ir.Model:
    """Returns the ONNX model that an exporter wrote into ``content``."""
    return ir.from_proto(onnx.load_from_string(content))


def name_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """Names the graph outputs, in place; a tensor that is returned several times becomes several outputs."""
    outputs = model.graph.outputs
    seen: set[ir.Value] = set()
    for index, value in enumerate(outputs):
        if value in seen:
            outputs[index] = _copied(model.graph, value, index)
        seen.add(value)
    for value, name in zip(outputs, names, strict=True):
        value.name = name


def _copied(graph: ir.Graph, value: ir.Value, index: int) -> ir.Value:
    """Returns the result of a new Identity node on ``value``, with the same type and shape."""
    node = ir.node("Identity", [value], name=f"/Identity_of_output_{index}")
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.append(node)
    return node.outputs[0]
