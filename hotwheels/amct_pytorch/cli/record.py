"""``amct record``: quantization factors as a table, and from one form of file to another."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ..errors import ConfigError, RecordError
from ..files import FileSet, check_input_file
from ..record import Record, calibration_param, text_proto
from ..record.calibration_param import CalibrationParam, FactorParam
from ..record.parse import read_proto_text
from ..record.record import LayerRecord
from .command import command

Content = Record | CalibrationParam
Rows = list[tuple[str, ...]]
_FIRST_FIELD = re.compile(r"^\s*(record|layer|version)\b", re.MULTILINE)


_EXAMPLE = """amct record out/net_scale_offset_record.txt
amct record out/net_quant_param_record.bin -o param.txt"""


@command("record", example=_EXAMPLE)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "-k",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the content there instead: .txt in the present layout, or .bin (parameter files only).",
)
def COMMAND(file: Path, output: Path | None) -> None:
    """Shows the quantization factors in FILE, or converts them.

    FILE is a record (*_scale_offset_record.txt, the record_file of the dynamic path, older layouts as well) or a
    parameter file for the model converter (*_quant_param_record.txt, .bin).
    """
    content = _read(check_input_file(file, "record:"))
    if output is None:
        _print(*_table(content))
        return
    _write(content, output)
    click.echo(f"{output}")


def _read(file: Path) -> Content:
    if file.suffix.lower() == ".bin":
        return calibration_param.read_param(file)
    text = read_proto_text(file, "record:")
    first = _FIRST_FIELD.search(text)
    if first is None:
        raise RecordError(f"'{file}' is neither a record nor a parameter file: it has no field 'record' or 'layer'.")
    if first[1] == "record":
        return text_proto.from_text(text, str(file))
    return calibration_param.from_text(text, str(file))


def _write(content: Content, output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix not in (".txt", ".bin"):
        raise ConfigError(f"-o: '{output}' must end in .txt or .bin.")
    if isinstance(content, Record):
        if suffix == ".bin":
            raise ConfigError("A record by layer has no binary form; only parameter files (*_quant_param_record) have.")
        data = text_proto.to_text(content).encode()
    elif suffix == ".bin":
        data = calibration_param.to_binary(content)
    else:
        data = calibration_param.to_text(content).encode()
    with FileSet() as files:
        files.write_bytes(output, data)


def _table(content: Content) -> tuple[tuple[str, ...], Rows]:
    if isinstance(content, Record):
        titles = ("layer", "tensor", "bits", "scale", "offset", "remarks")
        return titles, [row for name, layer in content.layers.items() for row in _rows_of_record(name, layer)]
    titles = ("node", "tensor", "type", "1/scale", "offset", "remarks")
    rows = []
    for one in content.layers:
        rows += [_row_of_factor(one.name, f"input {index}", factor) for index, factor in enumerate(one.inputs)]
        rows += [_row_of_factor(one.name, "weight", one.weight)] if one.weight is not None else []
    return titles, rows


def _rows_of_record(name: str, layer: LayerRecord) -> Rows:
    rows: Rows = [
        (name, f"input {one.index}", str(one.num_bits), _short(one.scale), str(one.offset), "")
        for one in layer.activations
    ]
    if layer.weight is not None:
        remarks = [
            "codebook" if layer.weight.codebook else "",
            f"shift {_numbers(layer.shift_bit)}" if layer.shift_bit else "",
            "BatchNorm kept" if layer.skip_fusion else "",
        ]
        scale = _numbers(layer.weight.scale)
        rows.append((name, "weight", str(layer.weight.num_bits), scale, "0", ", ".join(filter(None, remarks))))
    return rows


def _row_of_factor(name: str, tensor: str, factor: FactorParam) -> tuple[str, ...]:
    remarks = "codebook" if factor.params is not None else ""
    return (name, tensor, factor.data_type.name, _numbers(factor.scale), _numbers(factor.offset), remarks)


def _numbers(values: tuple[float, ...]) -> str:
    """One value, or the smallest and the largest with their number."""
    if len(set(values)) == 1:
        return _short(values[0])
    return f"{_short(min(values))} .. {_short(max(values))} ({len(values)})" if values else "-"


def _short(value: float) -> str:
    return f"{value:.6g}"


def _print(titles: tuple[str, ...], rows: Rows) -> None:
    widths = [max(len(row[index]) for row in (titles, *rows)) for index in range(len(titles))]
    for row in (titles, *rows):
        click.echo("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
