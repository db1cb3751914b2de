"""The detectors of torchvision up to the outputs of their heads: the code behind them picks boxes by their values."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from .architecture import Architecture
from .libraries import torchvision


class _Heads(nn.Module):
    """Backbone and heads of one detector; a region proposal network counts as a head."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return self.head(list(features.values()))


def _build(name: str) -> nn.Module:
    model = torchvision.models.detection
    return _Heads(getattr(model, name)(weights=None, weights_backbone=None, num_classes=5))


def _detector(name: str, image_size: int = 64) -> Architecture:
    return Architecture(name, "torchvision", partial(_build, name), image_size)


DETECTORS = (
    _detector("fasterrcnn_mobilenet_v3_large_fpn"),
    _detector("fasterrcnn_resnet50_fpn_v2"),
    _detector("maskrcnn_resnet50_fpn"),
    _detector("keypointrcnn_resnet50_fpn"),
    _detector("retinanet_resnet50_fpn"),
    _detector("fcos_resnet50_fpn"),
    _detector("ssdlite320_mobilenet_v3_large", 160),
    _detector("ssd300_vgg16", 300),
)
