"""Compares auto_quantize with one setting everywhere at equal cost: W8A8, and 12 bits in front of CUBE operations only.

The same 32 pictures calibrate every configuration and are all that auto_quantize sees; SQNR of the logits against the
float network, in fake_quant, and the share of equal decisions, on held-out pictures. Costs by ``plan/cost_model.yaml``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from benchmarks import pretrained
from benchmarks.accuracy import CONFIGURATIONS, make_subject
from benchmarks.pictures import pictures
from benchmarks.table import as_markdown, as_text
from sample.common.zoo import RECIPES

LITE0 = "efficientnet_lite0"
KEYS = ("given", "auto")  # one setting, and auto_quantize
CUBE12 = CONFIGURATIONS / "cube_only_12bit.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            model, calibration, held_out = _subject(name, Path(folder))
            own = Path(folder) / name
            own.mkdir(exist_ok=True)
            for row in compare(model, calibration, held_out, own, args.refine):
                rows.append({"network": name, **row})
                print(rows[-1], flush=True)
    header = (
        "network",
        "at the cost of",
        "cost",
        *(name for key in KEYS for name in (key, f"{key} refined")),
        "lead",
        "CPU s",
    )
    print((as_markdown if args.markdown else as_text)(header, [_cells(row) for row in rows]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def compare(
    model: nn.Module, calibration: Tensor, held_out: Tensor, folder: Path, refines: bool
) -> list[dict[str, Any]]:
    """Returns a row for each of the two configurations with one setting; with ``refines`` the search refines, too."""
    wanted = pretrained.run(model, held_out)
    options: dict[str, Any] = {"progress": False, "resume_dir": folder / "noise", "refine": refines}
    options["config_file"] = folder / "auto.yml"
    batches = [(part,) for part in calibration.split(pretrained.BATCH // 2)]
    rows = []
    for name, definition in (("W8A8 everywhere", None), ("cube_only_12bit", CUBE12)):
        given = _quantized(model, definition, batches, folder)
        start = time.process_time()
        if definition is None:
            cost = 1.0
        else:
            cost = _cost(given, amct.auto_quantize(model, batches, budget=1.0, **options).layers)
        amct.auto_quantize(model, batches, budget=cost, **options)
        seconds = time.process_time() - start
        found = _quantized(model, folder / "auto.yml", batches, folder)
        row = {"beside": name, "cost": cost, "seconds": seconds}
        for key, quantized in (("given", given), ("auto", found)):
            row[key] = dataclasses.astuple(pretrained.score(wanted, pretrained.run(quantized, held_out)))
            amct.refine(quantized, batches, progress=False)
            row[f"{key} refined"] = dataclasses.astuple(pretrained.score(wanted, pretrained.run(quantized, held_out)))
        rows.append(row)
    return rows


def _quantized(model: nn.Module, definition: Path | None, batches: Sequence[tuple[Tensor]], folder: Path) -> Any:
    config = folder / "config.json"
    amct.create_quant_config_fx(config, model, definition)
    document = json.loads(config.read_text(encoding="utf-8"))
    document.pop("refine", None)
    for layer in document.values():
        for data in layer.get("activation_quant_params", []):
            data["quantizer_args"]["batch_num"] = len(batches)
    config.write_text(json.dumps(document), encoding="utf-8")
    quantized = amct.create_quant_model_fx(config, model)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        for batch in batches:
            quantized(*batch)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


def _cost(quantized: Any, layers: Mapping[str, Any]) -> float:
    """Returns the cost of a model with 8-bit weights, from the table of all layers and settings."""
    bits = {name: layer.activation[0].params().num_bits for name, layer in quantized.quantized_layers.items()}
    return sum(choice.cost[f"W8A{bits[name]}" if name in bits else "float"] for name, choice in layers.items())


def _subject(name: str, folder: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """Returns the float model, its pictures for calibration, and those to score on."""
    if name == LITE0:
        images = pictures(224, 127.0, 128.0)
        return pretrained.efficientnet_lite0(), images[: pretrained.CALIBRATION], images[pretrained.DEVELOPMENT]
    subject = make_subject(name, folder)
    return subject.model, torch.from_numpy(subject.calibration), torch.from_numpy(subject.images)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    scores = [pretrained.Score(*row[name]) for key in KEYS for name in (key, f"{key} refined")]
    given, _, auto, refined = scores
    lead = f"{auto.sqnr - given.sqnr:+.1f} dB, refined {refined.sqnr - given.sqnr:+.1f} dB"
    cells = (one.cell() for one in scores)
    return row["network"], row["beside"], f"{row['cost']:.3f}", *cells, lead, f"{row['seconds']:.0f}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = (*RECIPES, LITE0)
    parser.add_argument("--networks", nargs="+", choices=networks, default=tuple(RECIPES), help="default: the digits")
    parser.add_argument("--refine", action="store_true", help="let auto_quantize search with refinement")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
