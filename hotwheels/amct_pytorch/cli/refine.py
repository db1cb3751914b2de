"""``amct refine``: weights and biases chosen by what the layers put out."""

from __future__ import annotations

from pathlib import Path

import click

from ..api.fx import save_quant_model_fx
from ..api.refine import refine
from ..config.layers.refine_config import DEFAULT_METHODS, METHODS
from .command import QUANTIZED, command
from .session import Given, config_option, output_option, restored, save_checkpoint, takes_model


@command(
    "refine",
    example=f"amct refine {QUANTIZED} -i images/ -o refined/net",
)
@takes_model
@config_option
@output_option("refined/model", "Folder and beginning of the names of the files.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(METHODS),
    help=f"May be repeated. Default: {' and '.join(DEFAULT_METHODS)}.",
)
def COMMAND(given: Given, quant_config: Path | None, output: Path, methods: tuple[str, ...]) -> None:
    """Refines a quantized checkpoint of MODEL: accuracy that calibration alone cannot reach, without training.

    32 images do. Writes the checkpoint (OUTPUT.pt) and the files for the model converter anew.
    """
    batches = list(given.inputs.batches())
    quantized = restored(given, quant_config)
    click.echo(str(refine(quantized, batches, methods or DEFAULT_METHODS)))
    save_checkpoint(quantized, f"{output}.pt")
    save_quant_model_fx(quantized, output, tuple(one[:1] for one in batches[0]))
    click.echo(f"{output}.pt")
