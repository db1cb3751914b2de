"""Writes an ONNX model in protobuf's wire format, piece by piece, so that large tensors are not copied in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

import onnx
import onnx_ir as ir

from ..files.marks import field_start


def write_with_tensors(proto: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol], file: BinaryIO) -> None:
    """Writes ``proto`` with the values of ``tensors``, which ``proto`` only references as external data.

    These initializers are written last; the order of fields has no meaning in protobuf.
    """
    graph, rest = onnx.GraphProto(), onnx.ModelProto()
    graph.CopyFrom(proto.graph)
    rest.CopyFrom(proto)
    rest.ClearField("graph")
    heads = [_head(item) for item in graph.initializer if item.name in tensors]
    kept = [item for item in graph.initializer if item.name not in tensors]
    del graph.initializer[:]
    graph.initializer.extend(kept)

    nodes = graph.SerializeToString(deterministic=True)
    pieces = [_initializer(head, tensors[head.name].nbytes) for head in heads]
    size = len(nodes) + sum(len(piece) + tensors[head.name].nbytes for piece, head in zip(pieces, heads, strict=True))
    file.write(rest.SerializeToString(deterministic=True))
    file.write(field_start(onnx.ModelProto.GRAPH_FIELD_NUMBER, size) + nodes)
    for piece, head in zip(pieces, heads, strict=True):
        file.write(piece)
        write_values(tensors[head.name], file)


def write_values(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Writes the values of ``tensor`` as little-endian bytes, without a copy where its class can (``tofile``)."""
    if hasattr(tensor, "tofile"):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())


def _head(reference: onnx.TensorProto) -> onnx.TensorProto:
    """Returns a tensor message without values."""
    head = onnx.TensorProto()
    head.CopyFrom(reference)
    head.ClearField("external_data")
    head.ClearField("data_location")
    return head


def _initializer(head: onnx.TensorProto, size: int) -> bytes:
    """Returns the bytes in front of the ``size`` bytes of values, in the graph's message."""
    inner = head.SerializeToString(deterministic=True) + field_start(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, size)
    return field_start(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(inner) + size) + bytes(inner)
