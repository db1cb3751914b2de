"""MobileNetV2 with torchvision's module names, so that torchvision's checkpoints load unchanged."""

import torch
from torch import Tensor, nn

# Expansion, channels, blocks, stride of the first block: table 2 of Sandler et al., 2018.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expand, 3x3 depthwise, linear 1x1 project; the input is added if the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.use_identity = stride == 1 and in_channels == out_channels
        layers = [_conv_bn_relu6(in_channels, hidden, kernel=1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *layers,
            _conv_bn_relu6(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_identity else self.conv(x)


class MobileNetV2(nn.Module):
    """The network of Sandler et al., 2018, with every channel count scaled by ``width_mult``."""

    def __init__(self, num_classes: int, width_mult: float) -> None:
        super().__init__()
        channels = _divisible_by_8(32 * width_mult)
        last_channels = _divisible_by_8(1280 * max(1.0, width_mult))
        features: list[nn.Module] = [_conv_bn_relu6(3, channels, stride=2)]
        for expansion, base_channels, num_blocks, first_stride in STAGES:
            out_channels = _divisible_by_8(base_channels * width_mult)
            for block in range(num_blocks):
                features.append(InvertedResidual(channels, out_channels, first_stride if block == 0 else 1, expansion))
                channels = out_channels
        features.append(_conv_bn_relu6(channels, last_channels, kernel=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last_channels, num_classes))
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, InvertedResidual) and module.use_identity:
                # Such a block starts as the identity (Goyal et al., 2017), which trains several times faster.
                nn.init.zeros_(module.conv[-1].weight)


def mobilenet_v2(num_classes: int = 1000, width_mult: float = 1.0) -> MobileNetV2:
    """Returns an untrained MobileNetV2; the defaults are torchvision's."""
    return MobileNetV2(num_classes, width_mult)


def _conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


def _divisible_by_8(channels: float) -> int:
    """Returns the nearest multiple of 8, at least 8 and at most 10 % below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
