"""``amct compare``: layer by layer, two ways to compute the same model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..files import write_text_atomic
from ..files.arrays import read_npy, single
from ..report.compare_page import comparison_page
from ..report.divergence import Row, compare, first_divergence, one_side_shifts
from ..report.tensors import load_tensors, on_disk
from .command import DIFFERS, OK, FiniteNumber, command, unlimited_option

_EXAMPLE = """amct compare fake_quant real_quant --prefix out/net --input image.npy
amct compare real_quant board_dump/ --prefix out/net --input image.npy
amct compare real_quant:old/net real_quant:new/net --input image.npy"""

_SHIFTS = "Only one side shifts accumulators (shift_bit of the record), so at least 20 dB are required, not steps."

_SIDES = """A and B are each one of
  float          the float model,       PREFIX_float_model.onnx, in onnxruntime
  fake_quant     the fake-quant model,  PREFIX_fake_quant_model.onnx, in onnxruntime, optimisations off
  onnxruntime    the same with onnxruntime's own integer kernels
  real_quant     the integer network:   PREFIX_deploy_model.onnx and PREFIX_quant_param_record.txt
  FOLDER         tensors dumped by enable_dump or by a board: <layer>_output0_<d0>_<d1>_pytorch.npy, .float, .txt
with KIND:PREFIX for files of another prefix than --prefix."""


@command("compare", example=_EXAMPLE, notes=_SIDES)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--prefix", help="Prefix of the saved files.")
@click.option(
    "-i",
    "--input",
    "inputs",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    multiple=True,
    help="Once for each input of the model.",
)
@click.option("--tolerance", type=FiniteNumber(min=0), help="Allowed difference, in steps of the grid behind a layer.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the rows as a page as well.")
@unlimited_option
def COMMAND(
    a: str,
    b: str,
    prefix: str | None,
    inputs: tuple[Path, ...],
    tolerance: float | None,
    as_json: bool,
    html: Path | None,
    is_unlimited: bool,
) -> int:
    """Shows layer by layer where A and B begin to differ. The exit code is 1 if they do."""
    arrays = [single(read_npy(path)) for path in inputs]
    with on_disk(load_tensors(a, prefix, arrays, is_limited=not is_unlimited)) as left:
        right = load_tensors(b, prefix, arrays, is_limited=not is_unlimited)
        rows = compare(left, right, tolerance)
    if not rows:
        raise ConfigError(f"'{left.title}' and '{right.title}' have no layer in common.")
    first = first_divergence(rows)
    if html is not None:
        write_text_atomic(html, comparison_page(left.title, right.title, rows))
    if as_json:
        click.echo(json.dumps({"a": left.title, "b": right.title, "layers": [_plain(row) for row in rows]}, indent=2))
    else:
        _print_table(rows)
        if tolerance is None and one_side_shifts(left, right):
            click.echo(_SHIFTS)
        click.echo(_verdict(rows, first))
    return OK if first is None else DIFFERS


def _verdict(rows: Sequence[Row], first: Row | None) -> str:
    if first is None:
        return f"{len(rows)} layers, none diverges."
    return f"First layer that diverges: {first.layer}. Likely cause: {first.cause}."


def _plain(row: Row) -> dict[str, Any]:
    """Returns the row as plain values; infinity and NaN, which JSON does not have, become None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(row).items()
    }


def _print_table(rows: Sequence[Row]) -> None:
    width = max(5, *(len(row.layer) for row in rows))
    click.echo(f"{'layer':{width}}  {'cosine':>9}  {'SQNR dB':>8}  {'max LSB':>9}")
    for row in rows:
        lsb = "-" if row.max_lsb is None else f"{row.max_lsb:.3f}"
        mark = "  <-" if row.diverges else ""
        click.echo(f"{row.layer:{width}}  {row.cosine:9.6f}  {row.sqnr:8.2f}  {lsb:>9}{mark}")
