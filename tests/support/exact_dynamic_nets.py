"""Nets for the dynamic path: modules for the layers that the hardware requires, and arbitrary Python between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from sample.mobilenet_v2.src.mobilenet import MobileNetV2
from tests.support.exact_nets import NETS, DenseNet, UNet, Yolo


class _DenseNet(DenseNet):
    """Its last pooling as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.join = nn.AdaptiveAvgPool2d(1), nn.ModuleList(amct.Cat(1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer, join in zip(self.layers, self.join, strict=False):
            features.append(layer(join(features)))
        return self.fc(torch.flatten(self.pool(F.relu(self.down(self.join[3](features)))), 1))


class _MobileNetV2(MobileNetV2):
    def __init__(self) -> None:
        super().__init__(num_classes=10, width_mult=0.25)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class _UNet(UNet):
    def __init__(self) -> None:
        super().__init__()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool1(a))
        c = self.middle(self.pool2(b))
        c = self.join2(torch.cat([self.up2(c), b], 1))
        return self.out(self.join1(torch.cat([self.up1(c), a], 1)))


class Free(nn.Module):
    """What no graph shows: decisions on values, lists, changes in place, item assignment, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)
        self.add, self.pool, self.norm = amct.EltwiseAdd(), nn.AvgPool2d(2), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)
        self.prelu, self.softmax, self.max = nn.PReLU(8), nn.Softmax(1), amct.Max(1)
        self.query, self.key, self.matmul = nn.Linear(8, 6), nn.Linear(8, 6), amct.MatMul()
        self.float_conv, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.gain = nn.Parameter(torch.randn(8, 1, 1))
        self.register_buffer("grid", torch.linspace(-1, 1, 16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x * 0.9 - torch.tensor([0.1, 0.2, -0.3]).view(3, 1, 1)
        x = self.stem(x)
        kept = [x.clone()]
        x += 0.25  # the list keeps the values before
        F.relu(x, inplace=True)
        if float(x.abs().mean()) > 0:
            y = self.left(x)
        else:
            y = self.right(x)
        y[:, :4] = y[:, :4] * 0.5
        y[:, 1].mul_(1.7)  # in place through a view
        z = self.add(self.right(kept[0]), y)
        z = self.prelu(self.norm(z)).contiguous().float().view(z.shape)
        for _ in range(2):
            z = F.silu(z) * torch.exp(self.gain * 0.1) + self.grid
        z = F.interpolate(self.up(self.pool(z)), scale_factor=1.5, mode="bilinear")
        z = torch.where(z > 0.1, z, z.clamp(min=-0.2) * 0.3)
        tokens = z.flatten(2).transpose(1, 2)
        scores = self.matmul(self.query(tokens), self.key(tokens).transpose(1, 2)) * 6**-0.5
        mixed = torch.einsum("bc,bck->bk", self.softmax(scores).mean(1), tokens)
        peak = self.max(F.normalize(z, dim=1)).amax((2, 3))
        return self.head(mixed) + peak, z


FUNCTIONAL = ("shufflenet_v2", "googlenet", "vit", "swin", "convnext", "deeplab", "efficientnet", "mobilenet_v3")
DYNAMIC_NETS: Mapping[str, Callable[[], nn.Module]] = {
    **{name: NETS[name] for name in ("resnet50", *FUNCTIONAL)},
    "mobilenet_v2": _MobileNetV2,
    "densenet": _DenseNet,
    "unet": _UNet,
    "yolo": Yolo,
    "free": Free,
}
