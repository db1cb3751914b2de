"""Detection nets up to their raw outputs: backbones and heads of the libraries, without the code that picks boxes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .libraries import timm, torchvision


class Detector(nn.Module):
    """A backbone and a head that reads all of its feature maps."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.head(self.backbone(images))


class Pyramid(nn.Module):
    """A backbone followed by a feature pyramid."""

    def __init__(self, backbone: nn.Module, channels: list[int], width: int) -> None:
        super().__init__()
        self.backbone, self.pyramid = backbone, torchvision.ops.FeaturePyramidNetwork(channels, width)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images)
        return list(self.pyramid({str(level): one for level, one in enumerate(maps)}).values())


class AnchorFreeHead(nn.Module):
    """YOLO's decoupled head: boxes as distances from a grid, a score for each class, all levels in one tensor."""

    def __init__(self, channels: list[int], strides: list[int], classes: int, width: int = 16) -> None:
        super().__init__()
        self.strides = strides
        self.boxes = nn.ModuleList(_branch(one, width, 4) for one in channels)
        self.scores = nn.ModuleList(_branch(one, width, classes) for one in channels)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        boxes, scores = [], []
        for level, stride in enumerate(self.strides):
            distances = self.boxes[level](maps[level]).exp() * stride
            boxes.append(distances.flatten(2))
            scores.append(self.scores[level](maps[level]).flatten(2))
        return {"boxes": torch.cat(boxes, 2).transpose(1, 2), "scores": torch.cat(scores, 2).sigmoid().transpose(1, 2)}


class UNet(nn.Module):
    """Ronneberger's U-Net on a backbone of timm: transposed convolutions up, concatenation with the way down."""

    def __init__(self, backbone: nn.Module, channels: list[int], classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in pairs)
        self.join = nn.ModuleList(_block(2 * high, high) for _, high in pairs)
        self.out = nn.Conv2d(channels[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        *skips, x = self.backbone(images)
        for up, join, skip in zip(self.up, self.join, skips[::-1], strict=True):
            x = join(torch.cat((up(x), skip), dim=1))
        return self.out(x)


def ssd() -> nn.Module:
    """SSD's head on three maps of a ResNet."""
    backbone, channels = _features("resnet10t", (2, 3, 4))
    return Detector(backbone, torchvision.models.detection.ssd.SSDHead(channels, [4, 6, 6], num_classes=5))


def ssd_lite() -> nn.Module:
    """SSDlite's head on three maps of a MobileNetV3."""
    backbone, channels = _features("mobilenetv3_small_050", (2, 3, 4))
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    return Detector(backbone, torchvision.models.detection.ssdlite.SSDLiteHead(channels, [6, 6, 6], 5, norm))


def retina_net() -> nn.Module:
    """RetinaNet's head on a feature pyramid."""
    head = torchvision.models.detection.retinanet.RetinaNetHead(32, num_anchors=3, num_classes=5)
    return Detector(_pyramid("resnet10t", 32), head)


def fcos() -> nn.Module:
    """FCOS's head, with GroupNorm, on a feature pyramid."""
    head = torchvision.models.detection.fcos.FCOSHead(32, num_anchors=1, num_classes=5, num_convs=2)
    return Detector(_pyramid("resnet10t", 32), head)


def yolo() -> nn.Module:
    """An anchor-free YOLO: CSP backbone, feature pyramid, decoupled heads."""
    return Detector(_pyramid("cs3darknet_focus_s", 32), AnchorFreeHead([32, 32, 32], [8, 16, 32], 5))


def u_net() -> nn.Module:
    """A U-Net on MobileNetV2."""
    backbone, channels = _features("mobilenetv2_050", (0, 1, 2, 3))
    return UNet(backbone, channels, 3)


def _pyramid(backbone: str, width: int) -> nn.Module:
    body, channels = _features(backbone, (2, 3, 4))
    return Pyramid(body, channels, width)


def _features(name: str, levels: tuple[int, ...]) -> tuple[nn.Module, list[int]]:
    backbone = timm.create_model(name, features_only=True, out_indices=levels)
    return backbone, backbone.feature_info.channels()


def _branch(channels: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_block(channels, width), _block(width, width), nn.Conv2d(width, outputs, 1))


def _block(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())
