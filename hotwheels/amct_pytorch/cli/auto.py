"""``amct auto``: finds a configuration by itself."""

from __future__ import annotations

from pathlib import Path

import click

from ..api.auto import auto_quantize
from ..workflows.auto.settings import WEIGHTS
from .command import FiniteNumber, command
from .session import Given, output_option, takes_model

_EXAMPLE = "amct auto timm:mobilenetv3_small_100 -w weights.pth -i images/ --budget 1.2 -o auto.yml"


@command("auto", example=_EXAMPLE)
@takes_model
@click.option("--target", type=FiniteNumber(), metavar="DB", help="The least SQNR at the outputs, for the lowest cost.")
@click.option(
    "--budget",
    type=FiniteNumber(min=0, min_open=True),
    metavar="COST",
    help="The highest cost, in units of 8 bits everywhere.",
)
@click.option("--cost_model", type=click.Path(path_type=Path), metavar="FILE", help="Costs of a chip (.yaml).")
@click.option("--data_bits", default="8,12,16", show_default=True, help="Widths of data to choose from.")
@click.option("--weight_kinds", "kinds", default="8,4_codebook", show_default=True, help=f"Of {', '.join(WEIGHTS)}.")
@click.option("--refine/--no-refine", "refines", default=True, help="Let the configuration ask for it; default: yes.")
@click.option("--resume_dir", type=click.Path(path_type=Path), metavar="DIR", help="Keeps what was measured.")
@output_option("auto_quantize.yml", "Simple configuration to write; the report lies beside it.")
def COMMAND(
    given: Given,
    target: float | None,
    budget: float | None,
    cost_model: Path | None,
    data_bits: str,
    kinds: str,
    refines: bool,
    resume_dir: Path | None,
    output: Path,
) -> None:
    """Finds the widths of every layer of MODEL for a target or a budget.

    The noise of every layer and width is measured once; an exact solver chooses. Give --target or --budget; what is
    written is a --quant_config of the other commands.
    """
    try:
        widths = [int(one) for one in data_bits.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--data_bits is '{data_bits}'; whole numbers with commas are expected.") from error
    result = auto_quantize(
        given.model,
        list(given.inputs.batches()),
        target=target,
        budget=budget,
        config_file=output,
        cost_model=cost_model,
        data_bits=widths,
        weights=kinds.split(","),
        refine=refines,
        resume_dir=resume_dir,
    )
    click.echo(str(result))
