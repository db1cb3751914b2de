"""Measures how many boxes of a face detector survive quantization: MTCNN's P-, R- and O-Net of facenet-pytorch.

Per configuration and network: how many of the candidates that pass in the float network pass in the quantized one, how
many pass only there, and the signal to noise ratio of the results, all on the inputs which the network has in the float
detector. Then the faces that the detector finds with all three networks quantized, one behind the other: how many of
those of the float detector it finds again (overlap of 0.5 at least, on the same picture), and how many of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from benchmarks import static_quantization
from benchmarks.pictures import pictures
from benchmarks.pretrained import ARQ4, CUBE_ONLY, SNQ4
from benchmarks.table import as_markdown, as_text

NETS = ("P-Net", "R-Net", "O-Net")
SIZE = 224
CALIBRATION, HELD_OUT = 32, 128
MOST_CROPS = 512  # of the R- and the O-Net, to calibrate with
THRESHOLDS, FACTOR, SMALLEST = (0.6, 0.7, 0.7), 0.709, 20  # the detector's own defaults
OVERLAP = 0.5
CONFIGURATIONS: Mapping[str, Mapping[str, Any] | Path] = {
    "W8A8 full": {},
    "W8A8 cube_only": CUBE_ONLY,
    "W8A12": {"activation_quant_params": {"quantizer_args": {"observer": "IFMRObserver", "num_bits": 12}}},
    "W4A8 uniform": {"weight_quant_params": ARQ4},
    "W4A8 codebook": {"weight_quant_params": SNQ4},
}
Boxes = list[NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    images = pictures(SIZE, 0.0, 1.0, args.pictures).permute(0, 2, 3, 1)
    calibration, held_out = images[:CALIBRATION], images[CALIBRATION : CALIBRATION + args.held_out]
    nets = float_nets()
    inputs = _inputs_of(nets, calibration)
    judged = _inputs_of(nets, held_out)
    wanted = detect(nets, held_out)
    print(f"float: {sum(map(len, wanted))} boxes on {len(held_out)} pictures", flush=True)
    rows = []
    for name, found in _quantized(nets, inputs):
        row: dict[str, Any] = {"method": name, "boxes": _compared(wanted, detect(found, held_out))}
        for net_name, net, other, part in zip(NETS, nets, found, judged, strict=True):
            row[net_name] = {"sqnr": _sqnr(net, other, part), **_survivors(net_name, net, other, part)}
        print(row, flush=True)
        rows.append(row)
    header = ("method", *(f"{net}: again, own, SQNR" for net in NETS), "faces: again, own")
    cells = [(row["method"], *(_cell(row[net]) for net in NETS), _cell(row["boxes"])) for row in rows]
    print((as_markdown if args.markdown else as_text)(header, cells))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def float_nets() -> list[nn.Module]:
    """Returns the three networks with their trained weights."""
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

    return [one().eval() for one in (PNet, RNet, ONet)]


@torch.no_grad()
def detect(nets: Sequence[nn.Module], images: Tensor) -> Boxes:
    """Returns the boxes of each picture, [boxes, 4 corners and the score]; ``images`` are [N, H, W, 3], 0 to 255."""
    from facenet_pytorch.models.utils import detect_face

    # torchvision's compiled non-maximum suppression is not there beside a torch without GPU.
    detect_face.batched_nms = lambda boxes, scores, images, overlap: detect_face.batched_nms_numpy(
        boxes, scores, images, overlap, "Union"
    )
    found: Boxes = []
    for part in images.split(16):
        boxes, _ = detect_face.detect_face(part, SMALLEST, *nets, THRESHOLDS, FACTOR, "cpu")
        found += [np.asarray(one, dtype=np.float32).reshape(-1, 5) for one in boxes]
    return found


class _Noting(nn.Module):
    """A network that keeps what it was called with."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.inputs = net, list[Tensor]()

    def forward(self, x: Tensor) -> Any:
        self.inputs.append(x)
        return self.net(x)


def _inputs_of(nets: Sequence[nn.Module], images: Tensor) -> list[list[Tensor]]:
    """What each network is called with in the float detector; the crops of the last two drawn at random."""
    noting = [_Noting(net) for net in nets]
    detect(noting, images)
    generator = torch.Generator().manual_seed(0)
    crops = [torch.cat(one.inputs) for one in noting[1:]]
    crops = [one[torch.randperm(len(one), generator=generator)[:MOST_CROPS]] for one in crops]
    return [noting[0].inputs, *([one] for one in crops)]


def _quantized(nets: Sequence[nn.Module], inputs: Sequence[list[Tensor]]) -> Any:
    """Yields a name and the three networks, quantized, per configuration and per method of onnxruntime."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for name, definition in CONFIGURATIONS.items():
            made = [_made(net, given, definition, folder / net_name) for net_name, net, given in _each(nets, inputs)]
            if name == "W8A8 full":
                for (net_name, _, given), quantized in zip(_each(nets, inputs), made, strict=True):
                    axes = {0: "batch", **({2: "height", 3: "width"} if net_name == "P-Net" else {})}
                    setting = {"input_names": ["input"], "dynamic_axes": {"input": axes}}
                    amct.save_quant_model_fx(quantized, folder / net_name / "net", given[0][:1], setting)
                    amct.enable_quantization(quantized, fake_quant=True)
            yield f"amct {name}", made
            for (_, _, given), quantized in zip(_each(nets, inputs), made, strict=True):
                amct.refine(quantized, given, progress=False)
            yield f"amct {name}, refined", made
        for method in static_quantization.METHODS:
            made = []
            for net_name, _, given in _each(nets, inputs):
                source, target = folder / net_name / "net_float_model.onnx", folder / net_name / f"{method}.onnx"
                static_quantization.quantize(source, given[0].numpy(), method, (), target)
                made.append(_OnnxNet(target))
            yield f"onnxruntime {method}, W8A8", made


def _each(nets: Sequence[nn.Module], inputs: Sequence[list[Tensor]]) -> list[tuple[str, nn.Module, list[Tensor]]]:
    return list(zip(NETS, nets, inputs, strict=True))


def _made(net: nn.Module, inputs: list[Tensor], definition: Mapping[str, Any] | Path, folder: Path) -> nn.Module:
    folder.mkdir(exist_ok=True)
    path = definition if isinstance(definition, Path) else folder / "definition.yaml"
    if not isinstance(definition, Path):
        path.write_text(yaml.safe_dump({"common_config": dict(definition)}), encoding="utf-8")
    amct.create_quant_config_fx(folder / "config.json", net, path if definition else None)
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for layer in document.values():
        for data in layer["activation_quant_params"]:
            data["quantizer_args"]["batch_num"] = len(inputs)
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    quantized = amct.create_quant_model_fx(folder / "config.json", net)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        for x in inputs:
            quantized(x)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


class _OnnxNet(nn.Module):
    """An ONNX file in the place of a network, without graph optimizations."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.asked_for_type = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        (name,) = (one.name for one in self._session.get_inputs())
        return tuple(torch.from_numpy(one) for one in self._session.run(None, {name: x.numpy()}))


@torch.no_grad()
def _sqnr(net: Callable[..., Any], other: Callable[..., Any], inputs: list[Tensor]) -> float:
    signal = noise = 0.0
    for x in inputs:
        for wanted, found in zip(net(x), other(x), strict=True):
            signal += float(wanted.double().square().sum())
            noise += float((wanted - found).double().square().sum())
    return 10 * math.log10(signal / noise)


@torch.no_grad()
def _survivors(name: str, net: Callable[..., Any], other: Callable[..., Any], inputs: list[Tensor]) -> dict[str, int]:
    """How many candidates pass in the float network, how many of these in the other, and how many only there."""
    threshold, counts = THRESHOLDS[NETS.index(name)], [0, 0, 0]
    for x in inputs:
        passes, other_passes = (one(x)[-1][:, 1] > threshold for one in (net, other))
        both = passes & other_passes
        for index, mask in enumerate((passes, both, other_passes & ~passes)):
            counts[index] += int(mask.sum())
    return dict(zip(("wanted", "again", "own"), counts, strict=True))


def _cell(found: Mapping[str, Any]) -> str:
    share = found["again"] / found["wanted"] if found["wanted"] else 1.0
    text = f"{found['again']} of {found['wanted']} ({share:.1%}), +{found['own']}"
    return f"{text}, {found['sqnr']:.1f} dB" if "sqnr" in found else text


def _compared(wanted: Boxes, found: Boxes) -> dict[str, int]:
    again = sum(_matched(one, other) for one, other in zip(wanted, found, strict=True))
    return {"wanted": sum(map(len, wanted)), "again": again, "own": sum(map(len, found)) - again}


def _matched(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> int:
    """How many boxes have a partner, each partner one box: the best overlaps first."""
    if not len(wanted) or not len(found):
        return 0
    corners = np.maximum(wanted[:, None, :2], found[None, :, :2]), np.minimum(wanted[:, None, 2:4], found[None, :, 2:4])
    inside = np.clip(corners[1] - corners[0], 0, None).prod(-1)
    areas = [(one[:, 2:4] - one[:, :2]).prod(-1) for one in (wanted, found)]
    overlap = inside / (areas[0][:, None] + areas[1][None] - inside)
    count = 0
    while overlap.max() >= OVERLAP:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[row], overlap[:, column] = 0, 0
        count += 1
    return count


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="number of pictures to look at")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures instead of those of the Debian packages")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    from benchmarks.zoo import libraries  # noqa: F401 - facenet-pytorch imports torchvision

    main()
