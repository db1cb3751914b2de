"""``amct export``: the files for the model converter from a checkpoint of a quantized model."""

from __future__ import annotations

from pathlib import Path

import click

from ..api.fx import save_quant_model_fx
from .command import QUANTIZED, command
from .session import Given, config_option, output_option, restored, takes_model


@command(
    "export",
    example=f"amct export {QUANTIZED} --input_shape 1,3,224,224",
)
@takes_model
@config_option
@output_option("out/model", "Folder and beginning of the names of the files.")
def COMMAND(given: Given, quant_config: Path | None, output: Path) -> None:
    """Writes the deploy, fake_quant and float ONNX models of a quantized checkpoint, for example of a trained one."""
    example = given.inputs.example()
    if example is None:
        raise click.UsageError("--input_shape or -i is missing: an ONNX file has the sizes of an example.")
    save_quant_model_fx(restored(given, quant_config), output, example)
    click.echo(f"{output}_deploy_model.onnx")
