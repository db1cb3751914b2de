"""``amct quantize``: from a float model and inputs to verified files and reports, in one call."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from ..api.fx import save_quant_model_fx
from ..backends.fx.quant_graph_module import QuantGraphModule
from ..oracle.digest import verify
from ..workflows.analysis.analyzer import QuantAnalyzer
from ..workflows.check.integer_share import measured_share
from .command import OK, command
from .dump import clear_dump, dump
from .inputs import ENOUGH
from .session import (
    Given,
    calibrated,
    config_of_checkpoint,
    config_option,
    output_option,
    restored,
    save_checkpoint,
    states_batch_num,
    takes_model,
    write_config,
)
from .verify import print_verdicts

_ANALYZED = 8  # samples: more make the figures smoother and the analysis slower

_EXAMPLE = """amct quantize timm:mobilenetv3_small_100 -w weights.pth -i images/ -o out
amct quantize -m model.load_pytorch_model --quant_config cube_only_8bit.yaml --input_shape "1,3,64,64" -i input.npy"""


_FILES = """OUTPUT holds then
  config.json         the configuration; edit it and give it as --quant_config
  NAME_*.onnx, NAME_quant_param_record.*   for the model converter, for onnxruntime, for comparison
  NAME.pt             checkpoint, for analyze, dump, refine, export and restore_quant_model_fx
  dump/               the result of every layer; those of an earlier call are deleted
  quant_analyzer/     the reports"""


@command("quantize", example=_EXAMPLE, notes=_FILES)
@takes_model
@config_option
@output_option("out", "Folder of all files.", is_folder=True)
@click.option("--name", help="Beginning of the names of the files; default: the last word of MODEL.")
@click.option(
    "--batch_num",
    type=click.IntRange(min=1),
    help=f"Calibration batches, instead of batch_num in the configuration; default without both: all, up to {ENOUGH}"
    " samples.",
)
@click.option(
    "--refine/--no-refine",
    "refines",
    default=True,
    help="Choose weights and biases anew by what the layers put out; default: yes.",
)
@click.option("--realquant", is_flag=True, help="Dump the integers of the chip instead of fake_quant.")
@click.option("--dump/--no-dump", "dumps", default=True, help="Write the result of every layer; default: yes.")
@click.option("--report/--no-report", "reports", default=True, help="Write the reports of the analysis; default: yes.")
@click.option("--verify/--no-verify", "verifies", default=True, help="Run the saved integers again; default: yes.")
def COMMAND(
    given: Given,
    quant_config: Path | None,
    output: Path,
    name: str | None,
    batch_num: int | None,
    refines: bool,
    realquant: bool,
    dumps: bool,
    reports: bool,
    verifies: bool,
) -> int:
    """Quantizes MODEL with typical inputs: calibrated, saved, verified, dumped and reported in one call.

    Calibration and refining use the first samples of -i, up to 32; --batch_num, or batch_num in the configuration, says
    another number. With -w of a quantized model nothing is calibrated: the checkpoint is used as it is. The exit code
    is 1 if the files do not compute what was saved.
    """
    if name is not None and Path(name).name != name:
        raise click.UsageError(f"--name is '{name}'; it is the beginning of file names. Give the folder with -o.")
    batches = given.inputs.batches()
    config_file, prefix = output / "config.json", output / (name or given.name)
    is_float = given.quantized_state is None
    if is_float and batch_num is None and not states_batch_num(quant_config):
        batch_num = batches.enough
    write_config(given, config_of_checkpoint(given, quant_config), config_file, batch_num)
    model = calibrated(given, config_file, refines=refines) if is_float else restored(given, config_file)
    save_checkpoint(model, f"{prefix}.pt")
    (sample,) = batches.up_to(1)
    save_quant_model_fx(model, prefix, sample, golden_inputs=sample if verifies else None)
    code = print_verdicts(verify(prefix, is_limited=False)) if verifies else OK
    if dumps:
        clear_dump(output / "dump")
        dump(model, sample, "real_quant" if realquant else "fake_quant", output / "dump", ".npy")
    if reports:
        first, *more = batches.up_to(_ANALYZED)
        QuantAnalyzer(model, first, output / "quant_analyzer", more_inputs=more).analyze()
    _print_summary(model, sample, output)
    return code


def _print_summary(model: QuantGraphModule, sample: tuple[torch.Tensor, ...], output: Path) -> None:
    click.echo(f"{len(model.quantized_layers)} layers are quantized. {measured_share(model, sample)}.")
    for path in sorted(output.iterdir()):
        text = f"{len(list(path.iterdir()))} files" if path.is_dir() else f"{path.stat().st_size / 1024:.1f} KiB"
        click.echo(f"{text:>14}  {path}")
