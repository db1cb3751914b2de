"""``amct dump``: the result of every layer as files."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import nn

from ..api.fx import enable_dump, enable_quantization
from ..log import get_logger
from .command import QUANTIZED, command
from .session import Given, config_option, output_option, restored, takes_model, uncalibrated_model

_log = get_logger(__name__)
MODES = ("float", "fake_quant", "real_quant")


def dump(quantized: nn.Module, inputs: tuple[torch.Tensor, ...], mode: str, folder: Path, dump_format: str) -> int:
    """Runs the model once in ``mode``, writes what its nodes compute and returns the number of files written.

    A WARNING counts the files of an earlier dump that stay in ``folder``.
    """
    before = _times(folder)
    enable_quantization(quantized, fake_quant=mode == "fake_quant", real_quant=mode == "real_quant")
    enable_dump(quantized, folder, dump_format)
    with torch.no_grad():
        quantized(*inputs)
    after = _times(folder)
    kept = [name for name, time in before.items() if after.get(name) == time]
    if kept:
        _log.warning("'%s' holds %d files that are not of this dump, such as '%s'.", folder, len(kept), kept[0])
    return len(after) - len(kept)


def clear_dump(folder: Path) -> None:
    """Deletes the files of an earlier dump in ``folder``; others stay."""
    for pattern in ("*_output*_pytorch.npy", "*_output*_pytorch.float", "*_output*_pytorch.txt"):
        for path in folder.glob(pattern):
            path.unlink()


def _times(folder: Path) -> dict[str, int]:
    return {one.name: one.stat().st_mtime_ns for one in sorted(folder.iterdir())} if folder.is_dir() else {}


@command(
    "dump",
    example=f"amct dump {QUANTIZED} -i image.npy --realquant",
)
@takes_model
@config_option
@output_option("dump", "Folder of the files.", is_folder=True)
@click.option("--realquant", is_flag=True, help="The integers of the chip instead of --mode.")
@click.option("--mode", type=click.Choice(MODES), default="fake_quant", show_default=True)
@click.option("--dump_format", type=click.Choice([".npy", ".float", ".txt"]), default=".npy", show_default=True)
def COMMAND(
    given: Given, quant_config: Path | None, output: Path, realquant: bool, mode: str, dump_format: str
) -> None:
    """Writes the result of every layer of MODEL for the first sample, one file a tensor.

    -w is the checkpoint of a quantized model; --mode float takes a float model as well.
    """
    mode = "real_quant" if realquant else mode
    is_float = mode == "float" and given.quantized_state is None
    quantized = uncalibrated_model(given, quant_config) if is_float else restored(given, quant_config)
    (inputs,) = given.inputs.batches().up_to(1)
    count = dump(quantized, inputs, mode, output, dump_format)
    click.echo(f"{output}: {count} files")
