"""Networks that torch has exported to ONNX and onnx2torch has read back: modules and functions of its own."""

from __future__ import annotations

import io
import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

from .architecture import CLASSES, Architecture
from .libraries import timm, torchvision
from .preparation import images, prepare

_PRODUCTS = "override_layer_types: [{layer_type: [torch.matmul], quant_enable: true}]"
_WHY_PRODUCTS = (
    "onnx2torch keeps the weights of MatMul in buffers. A product with a buffer is off unless the configuration names"
    " it: a buffer may be any constant, such as the table of a positional encoding."
)


def _read_back(model: nn.Module, image_size: int) -> nn.Module:
    import onnx
    from onnx2torch import convert

    prepare(model, [images(2, image_size, seed=0)])  # equal tensors would be one in the file, which the reader refuses
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(2, 3, image_size, image_size)
        axes = {"x": {0: "batch"}}
        torch.onnx.export(
            model.eval(), (example,), file, input_names=["x"], dynamic_axes=axes, opset_version=13, dynamo=False
        )
    read: nn.Module = convert(onnx.load_from_string(file.getvalue()))
    return read


def _of_torchvision(name: str, image_size: int, **settings: Any) -> nn.Module:
    return _read_back(torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **settings), image_size)


def _of_timm(name: str, image_size: int, **settings: Any) -> nn.Module:
    return _read_back(timm.create_model(name, num_classes=CLASSES, **settings), image_size)


def _vision(name: str, image_size: int = 64, **settings: Any) -> Architecture:
    build = partial(_of_torchvision, name, image_size, **settings)
    return Architecture(f"{name} (onnx2torch)", "onnx2torch", build, image_size)


def _timm(name: str, image_size: int = 64, definition: str = "", **settings: Any) -> Architecture:
    build = partial(_of_timm, name, image_size, **settings)
    reason = _WHY_PRODUCTS if definition else ""
    return Architecture(f"{name} (onnx2torch)", "onnx2torch", build, image_size, definition, reason)


ROUND_TRIPS = (
    _vision("resnet18"),
    _vision("mobilenet_v2"),
    _vision("mobilenet_v3_small"),
    _vision("squeezenet1_1"),
    _vision("shufflenet_v2_x0_5"),
    _vision("densenet121"),
    _timm("convnext_atto"),
    _timm("mixer_s32_224", definition=_PRODUCTS, img_size=64),
    _timm("ghostnet_050"),
    _timm("efficientnet_lite0"),
)
