"""ResNet-50 for the dynamic path: every operation to quantize is a module, and each module is called once per forward.

It differs from sample/resnet50/src/resnet.py in the ReLUs and additions only, so checkpoints of both are compatible.
"""

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, plus the identity; the stride is in the 3x3 as in torchvision (ResNet v1.5)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.eltwise_add = amct.EltwiseAdd()  # a `+` is no module, so it would stay in float
        self.relu3 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(self.eltwise_add(out, identity))


class ResNet(nn.Module):
    """A bottleneck ResNet, whose weights come from a checkpoint."""

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, blocks[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, blocks[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width * 32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50(num_classes: int = 1000, width: int = 64) -> ResNet:
    """Returns an untrained ResNet-50; ``width`` is the number of channels of the stem, 64 in the published network."""
    return ResNet((3, 4, 6, 3), num_classes, width)


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    out_channels = channels * Bottleneck.expansion
    return nn.Sequential(first, *(Bottleneck(out_channels, channels, 1) for _ in range(num_blocks - 1)))
