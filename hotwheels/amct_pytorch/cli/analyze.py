"""``amct analyze``: the reports of QuantAnalyzer."""

from __future__ import annotations

from pathlib import Path

import click

from ..workflows.analysis.analyzer import QuantAnalyzer
from .command import QUANTIZED, command
from .session import Given, config_option, output_option, restored_or_float, takes_model


@command("analyze", example=f"amct analyze {QUANTIZED} -i image.npy")
@takes_model
@config_option
@output_option("quant_analyzer", "Folder of the reports.", is_folder=True)
@click.option("--samples", type=click.IntRange(min=1), default=8, show_default=True, help="Samples to analyze with.")
def COMMAND(given: Given, quant_config: Path | None, output: Path, samples: int) -> None:
    """Writes HTML reports of where MODEL loses accuracy, layer by layer.

    With -w of a quantized model that model is analyzed; else a copy of the float model is quantized with the default
    configuration and calibrated with the samples.
    """
    model = restored_or_float(given, quant_config)
    first, *more = given.inputs.batches().up_to(samples)
    QuantAnalyzer(model, first, output, more_inputs=more).analyze()
    click.echo(f"{output}")
