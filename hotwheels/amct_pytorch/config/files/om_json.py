"""Reads om.json: the widths that the model converter chose for the inputs of each layer (spec 11.7).

The layout is not documented. The reader only assumes objects that have a name and the data types of their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ...files import PathLike
from ...files.limits import OM_JSON
from .tolerant_json import read_json

# Layer name -> width of each input; None means float16, -1 (UNKNOWN_WIDTH) any other type.
OmLayers: TypeAlias = Mapping[str, tuple[int | None, ...]]

UNKNOWN_WIDTH = -1
_WIDTHS: Mapping[str, int | None] = {
    "S8": 8,
    "INT8": 8,
    "S16": 16,
    "INT16": 16,
    "F16": None,
    "FP16": None,
    "FLOAT16": None,
}
_ORIGINAL_NAMES = "_datadump_original_op_names"  # a fused operation lists the layers it was made from
_NAMING_KEYS = {"name", "attr", _ORIGINAL_NAMES}
_INPUT_KEYS = ("input_desc", "inputs", "input", "input_data_types", "input_types")
_TYPE_KEYS = ("dtype", "data_type", "datatype", "type")


def read_om_json(path: PathLike, named_by: PathLike | None = None) -> OmLayers:
    """Returns the widths of each layer's inputs, in the order of the file; of two objects with one name the later wins.

    Args:
      path: The file.
      named_by: The configuration that names it, for messages; None for none.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: It is not JSON.
    """
    return om_layers(read_json(path, "Mapping file" if named_by is None else f"Mapping file of '{named_by}':", OM_JSON))


def mapping_path(mapping_file: str, config_path: PathLike) -> Path:
    """Returns the path of the om.json that a configuration names.

    The name is relative to the working directory, as in scripts of the vendor's tool; if no such file exists there, to
    the folder of the configuration.
    """
    beside = Path(config_path).parent / mapping_file
    return beside if beside.is_file() and not Path(mapping_file).is_file() else Path(mapping_file)


def om_layers(document: Any) -> OmLayers:
    """Returns the widths of each layer's inputs in a parsed document; see `read_om_json`."""
    found: dict[str, tuple[int | None, ...]] = {}
    for one in _objects(document):
        if not one.keys() & _NAMING_KEYS:
            continue
        widths = _widths(one)
        if any(width != UNKNOWN_WIDTH for width in widths):
            found.update(dict.fromkeys(_names(one), widths))
    return found


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _objects(child)


def _names(one: Mapping[str, Any]) -> list[str]:
    own = one.get("name")
    return [own, *_original_names(one)] if isinstance(own, str) else _original_names(one)


def _original_names(one: Mapping[str, Any]) -> list[str]:
    """The list under `_ORIGINAL_NAMES`: a key of the object, or in ``attr``, a list of ``{"key": .., "value": ..}``."""
    attributes = one.get("attr")
    pairs = [pair for pair in attributes if isinstance(pair, dict)] if isinstance(attributes, list) else []
    values = [pair.get("value") for pair in pairs if pair.get("key") == _ORIGINAL_NAMES]
    return list(_strings([one.get(_ORIGINAL_NAMES), *values]))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _strings(child)


def _widths(one: Mapping[str, Any]) -> tuple[int | None, ...]:
    inputs: list[Any] = next((one[key] for key in _INPUT_KEYS if isinstance(one.get(key), list)), [])
    return tuple(_width(entry) for entry in inputs)


def _width(entry: Any) -> int | None:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in _TYPE_KEYS if isinstance(entry.get(key), str)), None)
    if not isinstance(entry, str):
        return UNKNOWN_WIDTH
    return _WIDTHS.get(entry.upper().removeprefix("DT_"), UNKNOWN_WIDTH)
