"""The command line: ``verify`` what was saved, ``compare`` what two sides compute."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import AmctError
from ..oracle.digest import LayerVerdict, verify
from ..report.divergence import Row, compare, first_divergence
from ..report.tensors import KINDS, load_tensors

_OK, _DIFFERS, _WRONG_CALL = 0, 1, 2

_DESCRIPTION = """Checks the files that save_quant_model_fx and the like have written.

  verify   runs the integer network again and compares it with the golden file saved beside it
  compare  shows layer by layer where two ways to compute the same model part

exit code: 0 equal, 1 something differs, 2 wrong call or missing file"""

_COMPARE = """A and B are each one of

  float          the float model,       <prefix>_float_model.onnx, in onnxruntime
  fake_quant     the fake-quant model,  <prefix>_fake_quant_model.onnx, in onnxruntime, optimisations off
  onnxruntime    the same with onnxruntime's own integer kernels
  real_quant     the integer network:   <prefix>_deploy_model.onnx and <prefix>_quant_param_record.txt
  FOLDER         tensors dumped by enable_dump or by a board: <layer>_output0_<d0>_<d1>_pytorch.npy, .float or .txt

with KIND:PREFIX for files of another prefix than --prefix."""

_EXAMPLES = """examples:
  compare fake_quant real_quant --prefix out/net --input image.npy
  compare real_quant board_dump/ --prefix out/net --input image.npy
  compare real_quant:old/net real_quant:new/net --input image.npy"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except (AmctError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _WRONG_CALL


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m hotwheels.amct_pytorch", description=_DESCRIPTION, formatter_class=layout
    )
    commands = parser.add_subparsers(required=True, metavar="{verify,compare}")
    one = commands.add_parser("verify", help="run the integer network again and compare with the golden file")
    one.add_argument("prefix", help="prefix of the saved files; saved with golden_inputs=...")
    one.set_defaults(run=_verify)
    two = commands.add_parser(
        "compare", help="layer by layer, A beside B", description=_COMPARE, epilog=_EXAMPLES, formatter_class=layout
    )
    two.add_argument("a", metavar="A", help=f"{', '.join(KINDS)} or a folder")
    two.add_argument("b", metavar="B", help="the same")
    two.add_argument("--prefix", help="prefix of the saved files")
    two.add_argument(
        "--input", metavar="FILE.npy", type=Path, action="append", default=[], help="one for each input of the model"
    )
    two.add_argument("--tolerance", type=float, help="allowed difference, in steps of the grid behind a layer")
    two.set_defaults(run=_compare)
    return parser


def _verify(args: argparse.Namespace) -> int:
    verdicts = verify(args.prefix)
    width = max((len(one.name) for one in verdicts), default=0)
    for verdict in verdicts:
        print(_verdict_line(verdict, width))
    wrong = [one for one in verdicts if not one.is_ok]
    first = f"; the first that is not: {wrong[0].name}" if wrong else ""
    print(f"{len(verdicts) - len(wrong)} of {len(verdicts)} layers ok{first}")
    return _DIFFERS if wrong else _OK


def _verdict_line(verdict: LayerVerdict, width: int) -> str:
    return f"{verdict.name:{width}}  {'ok' if verdict.is_ok else f'DIFFERS: {verdict.reason}'}"


def _compare(args: argparse.Namespace) -> int:
    inputs = [np.load(path) for path in args.input]
    a, b = (load_tensors(source, args.prefix, inputs) for source in (args.a, args.b))
    rows = compare(a, b, args.tolerance)
    if not rows:
        print(f"'{a.title}' and '{b.title}' have no layer in common.", file=sys.stderr)
        return _WRONG_CALL
    _print_table(rows)
    first = first_divergence(rows)
    if first is None:
        print(f"{len(rows)} layers, none diverges.")
        return _OK
    print(f"First layer that diverges: {first.layer}. Likely cause: {first.cause}.")
    return _DIFFERS


def _print_table(rows: Sequence[Row]) -> None:
    width = max(5, *(len(row.layer) for row in rows))
    print(f"{'layer':{width}}  {'cosine':>9}  {'SQNR dB':>8}  {'max LSB':>9}")
    for row in rows:
        lsb = "-" if row.max_lsb is None else f"{row.max_lsb:.3f}"
        mark = "  <-" if row.diverges else ""
        print(f"{row.layer:{width}}  {row.cosine:9.6f}  {row.sqnr:8.2f}  {lsb:>9}{mark}")
