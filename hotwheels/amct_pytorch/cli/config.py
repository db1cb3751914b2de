"""``amct config``: the config.json of a model, to be read and edited."""

from __future__ import annotations

from pathlib import Path

import click

from .command import command
from .session import Given, config_option, output_option, takes_model, write_config

_EXAMPLE = """amct config my_package.net.build -o tmp/config.json
amct quantize my_package.net.build --quant_config tmp/config.json -i images/"""


@command("config", example=_EXAMPLE)
@takes_model
@config_option
@output_option("config.json", "File to write; it may be edited and given to quantize as --quant_config.")
def COMMAND(given: Given, quant_config: Path | None, output: Path) -> None:
    """Writes the configuration of MODEL: one entry per layer that can be quantized.

    A model whose forward asks for sizes needs --input_shape or -i.
    """
    write_config(given, quant_config, output, None)
    click.echo(f"{output}")
