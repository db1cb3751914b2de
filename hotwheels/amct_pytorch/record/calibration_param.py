"""CalibrationParam <-> quant_param_record.txt / .bin, which the model converter reads (spec 11.4)."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ..errors import RecordError
from ..files import check_input_file
from ..files.limits import RECORD_BINARY, RECORD_LAYERS, read_limited
from ..proto import CalibrationParam as CalibrationMessage
from .parse import parse_message, read_proto_text
from .print_text import print_text

VERSION = 65536


class DataType(enum.IntEnum):
    """Element types by their number in the file."""

    S4 = 0
    U4 = 1
    S8 = 2
    U8 = 3
    S16 = 4
    U16 = 5
    F16 = 6
    S32 = 7
    U32 = 8
    F32 = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorParam:
    """The grid of one tensor, in the converter's terms ``x_q = rhe(x * scale) + offset``.

    Attributes:
      data_type: Type of the stored integers; F16 for a tensor in float.
      scale: ``1 / step``, one value or one per output channel; rounded to float32.
      offset: One value per scale; integers, signed as in the record, stored as float32.
      params: None, or the 16 int8 codebook bytes of a non-uniform weight.
    """

    data_type: DataType = DataType.S8
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    params: bytes | None = None

    def __post_init__(self) -> None:
        """Rounds to float32, as the file stores, so that an object equals the object read back from its file."""
        object.__setattr__(self, "scale", _float32(self.scale))
        object.__setattr__(self, "offset", _float32(self.offset))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerParam:
    """One deploy node.

    Attributes:
      name: Name of the node in the deploy ONNX.
      calc_data_type: Data type of the computation.
      inputs: One grid per activation input, in the order of the node's inputs.
      weight: Grid of the weight; None for a node without quantized weights.
    """

    name: str
    calc_data_type: DataType = DataType.S8
    inputs: tuple[FactorParam, ...] = ()
    weight: FactorParam | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationParam:
    """The whole file: one LayerParam per deploy node that consumes an activation, in graph order."""

    layers: tuple[LayerParam, ...] = ()
    version: int = VERSION


def to_text(param: CalibrationParam) -> str:
    """Returns the file's content as protobuf text; floats are printed with ``%.9g``, which reads back equal."""
    return print_text(_message(param))


def to_binary(param: CalibrationParam) -> bytes:
    """Returns the file's content in protobuf's binary form."""
    return bytes(_message(param).SerializeToString(deterministic=True))


def from_text(text: str, source: str) -> CalibrationParam:
    """Returns the parameters in ``text``; ``source`` is the file's name in messages.

    Raises:
      RecordError: The text does not parse.
    """
    return _param(parse_message(CalibrationMessage, text, source), source)


def from_binary(data: bytes, source: str) -> CalibrationParam:
    """Returns the parameters in ``data``; ``source`` is the file's name in messages.

    Raises:
      RecordError: The data is not a serialized CalibrationParam.
    """
    message = CalibrationMessage()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RecordError(f"{source} is not a quantization parameter file in binary form: {error}.") from error
    return _param(message, source)


def read_param(path: Path) -> CalibrationParam:
    """Returns the content of a file; one that ends in ``.bin`` is the binary form.

    Raises:
      FileNotFoundError: There is no such file.
      RecordError: It does not parse, or is beyond a limit.
    """
    if path.suffix.lower() != ".bin":
        return from_text(read_proto_text(path, "Quantization parameter file"), str(path))
    check_input_file(path, "Quantization parameter file")
    return from_binary(read_limited(path, RECORD_BINARY, RecordError), str(path))


def _float32(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.asarray(values, dtype=np.float32).tolist())


def _message(param: CalibrationParam) -> Any:
    """Returns the protobuf message; all fields are set, so that the converter needs no default values."""
    message = CalibrationMessage(version=param.version)
    for layer in param.layers:
        target = message.layer.add(name=layer.name, calc_data_type=int(layer.calc_data_type))
        target.quant_param.SetInParent()
        for one in layer.inputs:
            _fill(target.quant_param.input.add(), one)
        if layer.weight is not None:
            _fill(target.quant_param.weight, layer.weight)
    return message


def _fill(target: Any, factor: FactorParam) -> None:
    target.data_type = int(factor.data_type)
    target.scale.extend(factor.scale)
    target.offset.extend(factor.offset)
    if factor.params is not None:
        target.params = factor.params


def _param(message: Any, source: str) -> CalibrationParam:
    nameless = next((one for one in message.layer if not isinstance(one.name, str)), None)
    if nameless is not None:  # protobuf gives bytes where a string is no UTF-8
        raise RecordError(f"{source}: the name {nameless.name!r:.80} of a layer is not UTF-8.")
    RECORD_LAYERS.check(sum(1 + len(one.quant_param.input) for one in message.layer), source, RecordError)
    layers = tuple(
        LayerParam(
            name=layer.name,
            calc_data_type=DataType(layer.calc_data_type),
            inputs=tuple(_factor(one) for one in layer.quant_param.input),
            weight=_factor(layer.quant_param.weight) if layer.quant_param.HasField("weight") else None,
        )
        for layer in message.layer
    )
    return CalibrationParam(layers=layers, version=message.version)


def _factor(message: Any) -> FactorParam:
    return FactorParam(
        data_type=DataType(message.data_type),
        scale=tuple(message.scale),
        offset=tuple(message.offset),
        params=bytes(message.params) if message.HasField("params") else None,
    )
