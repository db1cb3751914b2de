"""Narrow variants of the usual networks: every kind of block and connection, few channels, small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sample.mobilenet_v2.src.mobilenet import MobileNetV2
from sample.nets.shufflenet import ShuffleNet
from sample.nets.vit import VisionTransformer
from sample.resnet50.src.resnet import ResNet
from sample.vit.src.conv_vit import ConvVisionTransformer
from sample.vit.src.vit import VitSize


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type | None = nn.ReLU
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: Callable[[Tensor], Tensor], act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)
        self._gate, self._act = gate, act

    def forward(self, x: Tensor) -> Tensor:
        return self._gate(self.fc2(self._act(self.fc1(self.pool(x))))) * x


class InvertedResidual(nn.Module):
    """MobileNetV3 and EfficientNet: expand, depthwise, squeeze-excite, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: type, gate: Callable, inner: Callable) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(inputs, 3 * inputs, 1, act=act),
            _conv(3 * inputs, 3 * inputs, 5, stride, 3 * inputs, act=act),
            SqueezeExcite(3 * inputs, gate, inner),
            _conv(3 * inputs, outputs, 1, act=None),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def _mobile_net(act: type, gate: Callable, inner: Callable) -> nn.Module:
    blocks = [InvertedResidual(8, 8, 1, act, gate, inner), InvertedResidual(8, 12, 2, act, gate, inner)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(24, 16), act(), nn.Dropout(0.2), nn.Linear(16, 5)]
    return nn.Sequential(_conv(3, 8, 3, 2, act=act), *blocks, _conv(12, 24, 1, act=act), *head)


class DenseNet(nn.Module):
    """BatchNorm in front of the convolution, concatenations that grow, an average pooling between the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, padding=1, bias=False))
            for i in range(3)
        )
        self.down = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2, 2))
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        x = F.relu(self.down(torch.cat(features, 1)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.a, self.b = _conv(inputs, 4, 1), nn.Sequential(_conv(inputs, 4, 1), _conv(4, 6, 3))
        self.c = nn.Sequential(_conv(inputs, 2, 1), _conv(2, 4, 5))
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), _conv(inputs, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.blocks = nn.Sequential(Inception(8), nn.MaxPool2d(2, 2, ceil_mode=True), Inception(18))
        self.fc = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.unsqueeze(x[:, 0], 1) * 0.458 + x * 0.3 + -0.03  # as torchvision transforms the input
        return self.fc(F.dropout(self.blocks(self.stem(x)).mean((2, 3)), training=self.training))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = _conv(3, 8), _conv(8, 12)
        self.middle = _conv(12, 16, act=nn.LeakyReLU)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 3, 2, 1, output_padding=1)
        self.join2, self.join1, self.out = _conv(24, 12), _conv(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        c = self.join2(torch.cat([self.up2(c), b], 1))
        return self.out(self.join1(torch.cat([self.up1(c), a], 1)))


class DeepLab(nn.Module):
    """Dilated convolutions, image pooling, bilinear resizing to the sizes of other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = _conv(3, 8, 3, 2), _conv(8, 12, 3, 2)
        self.aspp = nn.ModuleList(nn.Conv2d(12, 6, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 6, 1), nn.ReLU())
        self.project, self.classify = _conv(32, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.high(low)
        parts = [F.relu(one(high)) for one in self.aspp]
        parts.append(F.interpolate(self.image(high), size=high.shape[-2:], mode="bilinear", align_corners=False))
        joined = F.interpolate(torch.cat(parts, 1), size=low.shape[-2:], mode="bilinear", align_corners=False)
        x = self.classify(self.project(torch.cat([joined, low], 1)))
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class WindowAttention(nn.Module):
    """Swin: shifted windows by roll, a relative position bias looked up in a table."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.dim, self.heads, self.window, self.shift = dim, heads, window, shift
        self.norm, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(0.5 * torch.randn((2 * window - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (at[:, :, None] - at[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", (relative[..., 0] * (2 * window - 1) + relative[..., 1]).flatten())
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        k, tokens = self.window, self.window**2
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2)) if self.shift else self.norm(x)
        y = y.view(n, h // k, k, w // k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, tokens, c)
        q, key, v = self.qkv(y).reshape(-1, tokens, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index].view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        weights = (q * (c // self.heads) ** -0.5 @ key.transpose(-2, -1) + bias).softmax(-1)
        y = self.proj((weights @ v).transpose(1, 2).reshape(-1, tokens, c))
        y = y.view(n, h // k, w // k, k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.mlp(x)


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(WindowAttention(8, 2, 2, 0), WindowAttention(8, 2, 2, 1))
        self.merge, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(x).mean((1, 2)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.rand(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        return x + self.gamma * y.permute(0, 3, 1, 2)


class Yolo(nn.Module):
    """SiLU, a C2f-like split, pooling pyramid, nearest upsampling, boxes decoded from an anchor grid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.p3, self.p4 = (
            _conv(3, 8, 3, 2, act=nn.SiLU),
            _conv(8, 8, 3, 2, act=nn.SiLU),
            _conv(8, 12, 3, 2, act=nn.SiLU),
        )
        self.split, self.inner, self.join = (
            _conv(8, 8, 1, act=nn.SiLU),
            _conv(4, 4, 3, act=nn.SiLU),
            _conv(12, 8, 1, act=nn.SiLU),
        )
        self.pool, self.fuse, self.up = (
            nn.MaxPool2d(5, 1, 2),
            _conv(36, 12, 1, act=nn.SiLU),
            nn.Upsample(scale_factor=2),
        )
        self.neck, self.head = _conv(20, 8, act=nn.SiLU), nn.Conv2d(8, 3 * 7, 1)
        self.register_buffer("anchors", torch.tensor([10.0, 13, 16, 30, 33, 23]).view(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.p3(self.stem(x))
        a, b = self.split(x).chunk(2, 1)
        x = self.join(torch.cat([a, b, b + self.inner(b)], 1))
        y = self.p4(x)
        first = self.pool(y)
        y = self.fuse(torch.cat([y, first, self.pool(first)], 1))
        raw = self.head(self.neck(torch.cat([self.up(y), x], 1)))
        n, _, h, w = raw.shape
        raw = raw.view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2).contiguous()
        center, size, score = raw.sigmoid().split((2, 2, 3), 4)
        return torch.cat([(center * 2 - 0.5) * 8, (size * 2) ** 2 * self.anchors, score], -1), raw


def _conv_next() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4),
        ConvNeXtBlock(8),
        ConvNeXtBlock(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.LayerNorm(8),
        nn.Linear(8, 5),
    )


def _conv_vit() -> nn.Module:
    size = VitSize(image_size=32, patch_size=8, dim=16, depth=2, num_heads=2, mlp_dim=32)
    model = ConvVisionTransformer(10, size)
    for constant in (model.class_token, model.encoder.pos_embedding):
        nn.init.normal_(constant, std=0.3)
    return model


NETS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNet((1, 2, 1, 1), 10, 8),
    "mobilenet_v2": lambda: MobileNetV2(num_classes=10, width_mult=0.25),
    "mobilenet_v3": lambda: _mobile_net(nn.Hardswish, F.hardsigmoid, F.relu),
    "efficientnet": lambda: _mobile_net(nn.SiLU, torch.sigmoid, F.silu),
    "shufflenet_v2": lambda: ShuffleNet(10, (16, 32, 64), (2, 2, 2)),
    "densenet": DenseNet,
    "googlenet": GoogLeNet,
    "unet": UNet,
    "deeplab": DeepLab,
    "vit": lambda: VisionTransformer(10, 32, 8, 16, 2, 2),
    "conv_vit": _conv_vit,
    "swin": Swin,
    "convnext": _conv_next,
    "yolo": Yolo,
}
