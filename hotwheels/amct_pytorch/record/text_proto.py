"""Record <-> scale_offset_record.txt, protobuf text format (spec 11.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RecordError
from ..files import FileSet, PathLike, part_of
from ..files.marks import comment_of
from ..log import get_logger
from ..proto import ScaleOffsetRecord
from .check import check_layer
from .parse import parse_message, read_proto_text
from .print_text import print_text
from .record import ActivationRecord, LayerRecord, Record, WeightRecord

_log = get_logger(__name__)
_DEFAULT_BITS = 8  # in files without num_bits_*, which are older than that field


def read_record(path: PathLike) -> Record:
    """Returns the record in a file of the new or of the legacy layout.

    Raises:
      FileNotFoundError: There is no such file.
      RecordError: The file does not parse, or a value is impossible.
    """
    return from_text(read_proto_text(path, "Record file"), str(path))


def write_record(
    record: Record, path: PathLike, files: FileSet | None = None, partners: Mapping[str, str] | None = None
) -> None:
    """Adds the record in the new layout to ``files``, with the digests of ``partners`` in a comment.

    Without ``files`` the record is written at once.

    Raises:
      RecordError: A value is impossible.
    """
    content = to_text(record).encode("utf-8") + (comment_of(partners) if partners else b"")
    with part_of(files) as written:
        written.write_bytes(path, content)


def to_text(record: Record) -> str:
    """Returns the file's content. Floats have as many digits as a float32 needs to be read back equal."""
    message = ScaleOffsetRecord()
    for name, layer in record.layers.items():
        check_layer(name, layer, "the record to be written")
        entry = message.record.add(key=name)
        _fill(entry.value, layer)
    return print_text(message)


def from_text(text: str, source: str) -> Record:
    """Returns the record that ``text`` describes; ``source`` is the file's name in messages.

    If a key occurs twice, the last record is used, with a WARNING.

    Raises:
      RecordError: See `read_record`.
    """
    message = parse_message(ScaleOffsetRecord, text, source)
    layers: dict[str, LayerRecord] = {}
    for number, entry in enumerate(message.record):
        if not entry.key:
            raise RecordError(f"Record {number} of {source} has no key; it must be a layer name.")
        if entry.key in layers:
            _log.warning("Layer '%s' is recorded more than once in %s; the last record counts.", entry.key, source)
        layers[entry.key] = _layer(entry.key, entry.value, source)
        check_layer(entry.key, layers[entry.key], source)
    return Record(layers)


def _fill(value: Any, layer: LayerRecord) -> None:
    for one in layer.activations:
        value.record_d.add(scale_d=one.scale, offset_d=one.offset, index=one.index, num_bits_d=one.num_bits)
    if layer.weight is not None:
        _fill_weight(value, layer.weight)
    value.shift_bit.extend(layer.shift_bit)
    if layer.skip_fusion:
        value.skip_fusion = True


def _fill_weight(value: Any, weight: WeightRecord) -> None:
    value.scale_w.extend(weight.scale)
    value.offset_w.extend([0] * len(weight.scale))
    value.num_bits_w = weight.num_bits
    value.params.extend(weight.codebook)
    value.centroids.extend(weight.centroids)
    if weight.clip_max is not None:
        value.weight_clip_max = weight.clip_max


def _layer(name: str, value: Any, source: str) -> LayerRecord:
    shift_bit = tuple(value.shift_bit)
    return LayerRecord(
        activations=_activations(name, value, source),
        weight=_weight(name, value, source),
        shift_bit=shift_bit if any(shift_bit) else (),  # all 0 means no shift, like an empty list (spec 4.6)
        skip_fusion=value.skip_fusion,
    )


def _activations(name: str, value: Any, source: str) -> tuple[ActivationRecord, ...]:
    found = [
        ActivationRecord(
            index=one.index,
            scale=one.scale_d,
            offset=one.offset_d,
            num_bits=one.num_bits_d if one.HasField("num_bits_d") else _DEFAULT_BITS,
        )
        for one in value.record_d
    ]
    legacy = _legacy_activation(name, value, source)
    if legacy is not None and all(one.index != legacy.index for one in found):
        found.append(legacy)
    elif legacy is not None:
        _log.warning("Layer '%s' in %s has scale_d beside record_d; record_d counts.", name, source)
    return tuple(sorted(found, key=lambda one: one.index))


def _legacy_activation(name: str, value: Any, source: str) -> ActivationRecord | None:
    """Returns the input of the legacy layout, with ``scale_d`` and ``offset_d`` directly in the record; else None."""
    if not value.HasField("scale_d"):
        if value.HasField("offset_d"):
            raise RecordError(f"Layer '{name}' in {source}: offset_d is given without scale_d.")
        return None
    return ActivationRecord(index=0, scale=value.scale_d, offset=value.offset_d)


def _weight(name: str, value: Any, source: str) -> WeightRecord | None:
    _check_weight_offsets(name, value, source)
    if not value.scale_w:
        return None
    return WeightRecord(
        scale=tuple(value.scale_w),
        num_bits=value.num_bits_w if value.HasField("num_bits_w") else _DEFAULT_BITS,
        codebook=tuple(value.params),
        centroids=tuple(value.centroids),
        clip_max=value.weight_clip_max if value.HasField("weight_clip_max") else None,
    )


def _check_weight_offsets(name: str, value: Any, source: str) -> None:
    """Raises RecordError for a weight offset other than 0, and for weight fields without a scale.

    A WeightRecord cannot represent either, so they are checked in the protobuf message.
    """
    where = f"Layer '{name}' in {source}"
    lost = next((field for field in ("offset_w", "params", "centroids") if getattr(value, field)), None)
    if not value.scale_w and lost:
        raise RecordError(f"{where}: {lost} is given without scale_w.")
    if any(value.offset_w):
        raise RecordError(f"{where}: offset_w is {list(value.offset_w)}; weights have no offset, only 0 is allowed.")
    if value.offset_w and len(value.offset_w) != len(value.scale_w):
        msg = f"{where}: offset_w has {len(value.offset_w)} values and scale_w has {len(value.scale_w)}."
        raise RecordError(msg)
