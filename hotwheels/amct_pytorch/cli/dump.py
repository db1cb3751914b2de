"""``amct dump``: the result of every layer as files."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import nn

from ..api.fx import enable_dump, enable_quantization
from .command import QUANTIZED, command
from .session import Given, config_option, first_of, output_option, restored, takes_model

MODES = ("float", "fake_quant", "real_quant")


def dump(quantized: nn.Module, inputs: tuple[torch.Tensor, ...], mode: str, folder: Path, dump_format: str) -> int:
    """Runs the model once in ``mode``, writes what its nodes compute and returns the number of files in ``folder``."""
    enable_quantization(quantized, fake_quant=mode == "fake_quant", real_quant=mode == "real_quant")
    enable_dump(quantized, folder, dump_format)
    with torch.no_grad():
        quantized(*inputs)
    return len(list(folder.iterdir()))


@command(
    "dump",
    example=f"amct dump {QUANTIZED} -i image.npy --realquant",
)
@takes_model
@config_option
@output_option("dump", "Folder of the files.")
@click.option("--realquant", is_flag=True, help="The integers of the chip instead of --mode.")
@click.option("--mode", type=click.Choice(MODES), default="fake_quant", show_default=True)
@click.option("--dump_format", type=click.Choice([".npy", ".float", ".txt"]), default=".npy", show_default=True)
def COMMAND(
    given: Given, quant_config: Path | None, output: Path, realquant: bool, mode: str, dump_format: str
) -> None:
    """Writes the result of every layer of the quantized MODEL for the first sample, one file a tensor."""
    if quant_config is None:
        raise click.UsageError("--quant_config is missing: the config.json that lies beside the checkpoint.")
    quantized = restored(given, quant_config)
    inputs = first_of(given.inputs.batches(), 1)
    count = dump(quantized, inputs, "real_quant" if realquant else mode, output, dump_format)
    click.echo(f"{output}: {count} files")
