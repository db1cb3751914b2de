"""The protobuf messages of the cfg, record and parameter files.

The generated ``*_pb2`` modules register their messages in protobuf's default pool when imported. There they would clash
with another package's files of the same name (the vendor's own, or an older copy), so they are never imported here: the
file descriptors are taken out of their source text and go into a pool of our own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

_FILES = (
    "calibration_config_pytorch",
    "retrain_config_pytorch",
    "scale_offset_record_pytorch",
    "calibration_param",
)
_NUMBERED = re.compile(r"(\w+)\s*=\s*(\d+)\s*(?:\[[^\]]*\]\s*)?;")  # a field, or a value of an enum


def file_descriptor(module: str) -> bytes:
    """Returns the serialized FileDescriptorProto which ``<module>.py`` holds, without importing the module.

    Raises:
      ImportError: The module was not generated, or protoc wrote it in a form that we do not know.
    """
    source = resources.files(__package__).joinpath(f"{module}.py")
    if not source.is_file():
        msg = f"{source} is missing: it is generated when the package is built (`pip install .` or `pip install -e .`)."
        raise ImportError(msg)
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".AddSerializedFile"):
            return bytes(ast.literal_eval(node.args[0]))
    raise ImportError(f"{source} holds no serialized file descriptor; generate it with grpcio-tools 1.85.")


def outdated_modules(folder: Traversable | None = None) -> list[str]:
    """Returns the generated modules in ``folder``, default: this package, that lack fields of the .proto beside them.

    So it is in an editable install after the sources were updated; files without their .proto are not judged.
    """
    folder = resources.files(__package__) if folder is None else folder
    return [f"{name}_pb2.py" for name in _FILES if _is_outdated(folder.joinpath(f"{name}.proto"), name)]


def _is_outdated(source: Traversable, name: str) -> bool:
    if not source.is_file():
        return False
    text = re.sub(r"//[^\n]*", "", source.read_text(encoding="utf-8"))
    written = {(field, int(number)) for field, number in _NUMBERED.findall(text)}
    generated = descriptor_pb2.FileDescriptorProto.FromString(file_descriptor(f"{name}_pb2"))
    return written != set(_numbered(generated))


def _numbered(scope: descriptor_pb2.FileDescriptorProto | descriptor_pb2.DescriptorProto) -> Iterator[tuple[str, int]]:
    for enum in scope.enum_type:
        yield from ((value.name, value.number) for value in enum.value)
    is_file = isinstance(scope, descriptor_pb2.FileDescriptorProto)
    for inner in scope.message_type if is_file else scope.nested_type:
        yield from ((field.name, field.number) for field in inner.field)
        yield from _numbered(inner)


def _private_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for name in _FILES:
        pool.AddSerializedFile(file_descriptor(f"{name}_pb2"))
    return pool


def message(name: str) -> type[Message]:
    """Returns the class of a message by its full name, e.g. ``AMCTPytorchProto.SingleLayerRecord``.

    Raises:
      KeyError: None of our files defines it.
    """
    found: type[Message] = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))
    return found


_POOL = _private_pool()

AMCTConfig = message("AMCTPytorchProto.AMCTConfig")
AMCTRetrainConfig = message("AMCTPytorchProto.AMCTRetrainConfig")
ScaleOffsetRecord = message("AMCTPytorchProto.ScaleOffsetRecord")
SingleLayerRecord = message("AMCTPytorchProto.SingleLayerRecord")
CalibrationParam = message("calibration.CalibrationParam")
DataType = EnumTypeWrapper(_POOL.FindEnumTypeByName("calibration.DataType"))

__all__ = [
    "AMCTConfig",
    "AMCTRetrainConfig",
    "CalibrationParam",
    "DataType",
    "ScaleOffsetRecord",
    "SingleLayerRecord",
    "file_descriptor",
    "message",
    "outdated_modules",
]
