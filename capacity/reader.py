"""Reads capacity_config.csv: headerless rows ``NAME, type, value, value, ...`` (spec 9.6)."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from hotwheels.amct_pytorch.errors import ConfigError, nearest_names

Value = bool | str | tuple[str, ...]

_FILE = "capacity_config.csv"
VARIABLE = "AMCT_CAPACITY"
_TYPES = ("bool", "list", "string")
_BOOLS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """The rows of the table, each under its name in lower case.

    Attributes:
      quantizable_types: Torch classes with weight and data quantization; the ONNX row has their node types.
      channel_wise_types: Classes whose weights may have one scale per output channel.
      no_weight_quant_types: Torch classes with data quantization only; the ONNX row has their node types.
      fx_quant_types: Operations with data quantization on the FX path only, by class or by their name in `ops.table`.
      not_default_quant_types: Classes that generated configurations switch off.
      fused_activation_types: Activations that the chip computes together with the preceding convolution.
      fuse_types: Normalisations that can be folded into a convolution.
      cube_onnx_types: Nodes that the chip's matrix unit computes.
      no_command_onnx_types: Nodes that only move data.
      shift_n_types: Classes whose records carry a shift bit.
      leaf_module_packages: Packages whose modules the tracer treats as single nodes.
      source: The file's name, for messages.
      extra: Rows with other names, e.g. for the user's own tools.
    """

    quantizable_types: tuple[str, ...]
    quantizable_onnx_types: tuple[str, ...]
    channel_wise_types: tuple[str, ...]
    channel_wise_onnx_types: tuple[str, ...]
    no_weight_quant_types: tuple[str, ...]
    no_weight_quant_onnx_types: tuple[str, ...]
    fx_quant_types: tuple[str, ...]
    not_default_quant_types: tuple[str, ...]
    fused_activation_types: tuple[str, ...]
    fuse_types: tuple[str, ...]
    cube_onnx_types: tuple[str, ...]
    no_command_onnx_types: tuple[str, ...]
    shift_n_types: tuple[str, ...]
    leaf_module_packages: tuple[str, ...]
    source: str = dataclasses.field(default="", compare=False)
    extra: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    def pairs(self, row: str) -> tuple[tuple[str, str], ...]:
        """Returns the (torch type, ONNX type) pairs of the rows ``<row>_TYPES`` and ``<row>_ONNX_TYPES``."""
        torch_types, onnx_types = (getattr(self, f"{row.lower()}_{kind}") for kind in ("types", "onnx_types"))
        return tuple(zip(torch_types, onnx_types, strict=True))


PAIRED_ROWS = ("QUANTIZABLE", "CHANNEL_WISE", "NO_WEIGHT_QUANT")
ROWS = tuple(field.name.upper() for field in dataclasses.fields(Capacity) if field.name not in ("source", "extra"))


def read_capacity(path: str | os.PathLike[str] | None = None) -> Capacity:
    """Returns the table in ``path``, by default the installed one. Reads it anew at each call, since users edit it.

    The environment variable AMCT_CAPACITY may name a file of the same form: each of its rows replaces the row of the
    same name of the installed file.

    Raises:
      FileNotFoundError: ``path``, or the file that AMCT_CAPACITY names, does not exist.
      ConfigError: A row is malformed, missing or repeated, or two paired rows differ in length.
    """
    own = os.environ.get(VARIABLE, "")
    if path is not None or not own:
        file = _installed() if path is None else Path(path)
        return parse_capacity(_text(file), str(file))
    if not Path(own).is_file():
        raise FileNotFoundError(f"Environment variable {VARIABLE} names '{own}', which is not a file.")
    installed = _installed()
    rows = _rows_of(_text(installed), str(installed)) | _rows_of(_text(Path(own)), own)
    return _capacity(rows, f"{own} over {installed}")


def parse_capacity(text: str, source: str) -> Capacity:
    """Returns the table in ``text``; ``source`` is the file's name in messages."""
    return _capacity(_rows_of(text, source), source)


def _installed() -> Path:
    return Path(str(resources.files(__package__).joinpath(_FILE)))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not a UTF-8 text: {error}.") from error


def _rows_of(text: str, source: str) -> dict[str, Value]:
    rows: dict[str, Value] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = [field.strip() for field in next(csv.reader([line], skipinitialspace=True), [])]
        if any(fields):
            name, value = _row(fields, f"{source}, line {number}")
            if name in rows:
                raise ConfigError(f"{source}, line {number}: row '{name}' appears twice.")
            rows[name] = value
    return rows


def _row(fields: list[str], where: str) -> tuple[str, Value]:
    if len(fields) < 3:
        msg = f"{where}: a row needs a name, a type and a value, found {', '.join(map(repr, fields))}."
        raise ConfigError(msg)
    name, kind, *values = fields
    if kind not in _TYPES:
        raise ConfigError(f"{where}: row '{name}' has type '{kind}'; allowed: {', '.join(_TYPES)}.")
    given = tuple(value for value in values if value)
    if kind == "list":
        return name, given
    if len(given) != 1:
        raise ConfigError(f"{where}: row '{name}' of type '{kind}' has {len(given)} values, expected 1.")
    return name, given[0] if kind == "string" else _bool(given[0], name, where)


def _bool(value: str, name: str, where: str) -> bool:
    if value.lower() not in _BOOLS:
        raise ConfigError(f"{where}: row '{name}' of type 'bool' is '{value}'; allowed: true, false.")
    return _BOOLS[value.lower()]


def _capacity(rows: Mapping[str, Value], source: str) -> Capacity:
    lists = {row.lower(): _list_row(rows, row, source) for row in ROWS}
    extra = {name: value for name, value in rows.items() if name not in ROWS}
    capacity = Capacity(**lists, source=source, extra=extra)
    for row in PAIRED_ROWS:
        torch_types, onnx_types = lists[f"{row.lower()}_types"], lists[f"{row.lower()}_onnx_types"]
        if len(torch_types) != len(onnx_types):
            msg = (
                f"{source}: {row}_TYPES has {len(torch_types)} values and {row}_ONNX_TYPES has {len(onnx_types)}. The"
                " same position in both is one pair, so append to both."
            )
            raise ConfigError(msg)
    return capacity


def _list_row(rows: Mapping[str, Value], row: str, source: str) -> tuple[str, ...]:
    value = rows.get(row)
    if value is None:
        msg = f"{source}: row '{row}' is missing. {nearest_names(row, rows)} Copy the row from the shipped file."
        raise ConfigError(msg)
    if not isinstance(value, tuple):
        raise ConfigError(f"{source}: row '{row}' must have the type 'list'.")
    return value
