"""``amct dot2pdf``: a PDF of float.dot or quant.dot, by graphviz."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click

from ..errors import ConfigError
from ..files import check_input_file
from .command import FiniteNumber, command

_DOTS = (".dot", ".gv")


@command("dot2pdf", example="amct dot2pdf tmp/quant.dot")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: the same name with .pdf.")
@click.option("--timeout", type=FiniteNumber(min=1, max=86400), default=60, show_default=True, help="Seconds.")
def COMMAND(file: Path, output: Path | None, timeout: float) -> None:
    """Writes a PDF of FILE (.dot), which lies beside float.svg and quant.svg. It needs graphviz; the .svg do not."""
    source, target = check_input_file(file, "dot2pdf:"), output or file.with_suffix(".pdf")
    if source.suffix.lower() not in _DOTS:
        raise ConfigError(f"dot2pdf: '{source}' is no .dot; float.dot and quant.dot lie beside config.json.")
    program = shutil.which("dot")
    if program is None:
        raise ConfigError(
            "graphviz is not installed: apt install graphviz. The .svg beside the .dot needs no graphviz."
        )
    line = [program, "-Tpdf", "-o", str(target), str(source)]
    try:
        ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        said = f"graphviz has not finished '{source}' in {timeout:.0f} s: give --timeout, or look at the .svg."
        raise ConfigError(said) from error
    if ran.returncode != 0:
        raise ConfigError(f"graphviz cannot draw '{source}': {' '.join(ran.stderr.split())}")
    click.echo(f"{target}")
