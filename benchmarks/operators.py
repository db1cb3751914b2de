"""Compares the operators of the float ONNX files with those that torch's exporters write for the same networks."""

from __future__ import annotations

import argparse
import collections
import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

import benchmarks.zoo.libraries  # noqa: F401 - lets torchvision be imported
import hotwheels.amct_pytorch as amct
from benchmarks.table import as_markdown

NETWORKS = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1",
    "swin_t", "vgg11_bn", "vit_b_16",
)  # fmt: skip
_OPSET = 17
_SIZES = {"vit_b_16": 224, "alexnet": 96, "vgg11_bn": 96}
_SIZE = 64
_FOLDED = ("BatchNormalization", "Identity", "Dropout", "Constant")  # what a fold or a clean-up takes out of either


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    rows = [(name, *map(_shown, compare(name))) for name in parser.parse_args(arguments).networks]
    print(as_markdown(("network", "only in torch's file", "only in ours"), rows))


def compare(name: str) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Returns how often an operator is in torch's file and not in ours, and the reverse."""
    import torchvision

    torch.manual_seed(0)
    extra = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model: nn.Module = getattr(torchvision.models, name)(**extra).eval()
    x = torch.randn(1, 3, *[_SIZES.get(name, _SIZE)] * 2)
    theirs, ours = _operators(_by_torch(model, x)), _operators(_by_save(model, x))
    return theirs - ours, ours - theirs


def _by_torch(model: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=_OPSET)
    return onnx.load_from_string(file.getvalue())


def _by_save(model: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        amct.create_quant_config_fx(config, model)
        quantized = amct.create_quant_model_fx(config, model)
        amct.enable_quantization(quantized, calibration=True)
        with torch.no_grad():
            quantized(x)
        amct.save_quant_model_fx(quantized, f"{folder}/net", x, {"opset_version": _OPSET})
        return onnx.load(f"{folder}/net_float_model.onnx")


def _operators(model: onnx.ModelProto) -> collections.Counter[str]:
    found = collections.Counter(node.op_type for node in model.graph.node)
    return collections.Counter({name: count for name, count in found.items() if name not in _FOLDED})


def _shown(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "-"


if __name__ == "__main__":
    main()
