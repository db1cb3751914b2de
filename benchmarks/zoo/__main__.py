"""Runs the whole SDK on architectures of torchvision and timm and writes the result of each.

Every network is built as its library builds it, untrained, in a small variant; BatchNorms get statistics. Then follow:
check_model, configuration, calibration, fake_quant, real_quant, export, the fake_quant file in onnxruntime without
optimizations, and the deploy pair in the NumPy oracle, whose integers must equal those of real_quant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .outcome import Outcome, read_outcome

REPORT = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"
_SHOWN = 400  # characters of an error, while running
RESULTS = Path(__file__).resolve().parents[2] / ".zoo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if a network fails."""
    args = _parse(arguments)
    # Set before torch is imported, here and in the processes.
    os.environ.update(OMP_NUM_THREADS="1", AMCT_LOG_LEVEL="ERROR", AMCT_LOG_FILE_LEVEL="ERROR")
    from .architectures import ARCHITECTURES

    if args.list:
        print("\n".join(f"{one.name:36}{one.source}" for one in ARCHITECTURES.values()))
        return 0
    names = args.only or list(ARCHITECTURES)
    unknown = [name for name in names if name not in ARCHITECTURES]
    if unknown:
        print(f"Not in the zoo: {', '.join(unknown)}. python -m benchmarks.zoo --list shows what is.", file=sys.stderr)
        return 2
    outcomes = _run(names, args)
    from . import report
    from .rows import join_rows, read_rows, write_rows

    print(report.as_screen(outcomes))
    if args.keep or not args.only:
        rows = join_rows(read_rows(), outcomes)
        write_rows(rows)
        report.write(rows, REPORT)
        print(f"Wrote {REPORT}.")
    return int(not all(one.has_passed for one in outcomes))


def _run(names: Sequence[str], args: argparse.Namespace) -> list[Outcome]:
    from .processes import run_all

    paths = {name: args.results / f"{name}.json" for name in names}
    found = {name: read_outcome(path) for name, path in paths.items() if args.resume and path.is_file()}
    with tqdm(total=len(names), initial=len(found), desc="zoo", unit="net") as progress:

        def add(outcome: Outcome) -> None:
            found[outcome.name] = outcome
            progress.update()
            progress.set_postfix_str(f"{sum(not one.has_passed for one in found.values())} failed")
            if not outcome.has_passed:
                progress.write(f"{outcome.name}, {outcome.stage}: {outcome.error[:_SHOWN]}")

        run_all([name for name in names if name not in found], args.results, args.jobs, args.timeout, add)
    return [found[name] for name in names]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these; docs/zoo.md is written with --keep only")
    parser.add_argument("--keep", action="store_true", help="renew the rows of these networks in docs/zoo.md")
    parser.add_argument("--resume", action="store_true", help="keep the results of an earlier run that was cut off")
    parser.add_argument("--list", action="store_true", help="show all names and leave")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="networks at a time, one core each")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for each (default %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="for a JSON each (default .zoo)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
