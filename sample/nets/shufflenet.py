"""A small ShuffleNetV2 (Ma et al., 2018): channel split, concatenation and channel shuffle."""

import torch
from torch import Tensor, nn


class ShuffleUnit(nn.Module):
    """Half of the channels bypass the convolutions; with stride 2 both halves are computed from the whole input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.half = out_channels // 2
        self.stride = stride
        self.branch1 = _downsample(in_channels, self.half) if stride == 2 else nn.Identity()
        branch_in = in_channels if stride == 2 else self.half
        self.branch2 = nn.Sequential(
            nn.Conv2d(branch_in, self.half, 1, bias=False),
            nn.BatchNorm2d(self.half),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.half, self.half, 3, stride, padding=1, groups=self.half, bias=False),
            nn.BatchNorm2d(self.half),
            nn.Conv2d(self.half, self.half, 1, bias=False),
            nn.BatchNorm2d(self.half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return _shuffle(torch.cat((self.branch1(x), self.branch2(x)), dim=1))
        passed, worked = torch.split(x, self.half, dim=1)
        return _shuffle(torch.cat((passed, self.branch2(worked)), dim=1))


class ShuffleNet(nn.Module):
    """Stem, three stages of shuffle units, a 1x1 convolution and a classifier."""

    def __init__(self, num_classes: int, channels: tuple[int, int, int], blocks: tuple[int, int, int]) -> None:
        super().__init__()
        stem = channels[0] // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        )
        stages = []
        for in_channels, out_channels, num_blocks in zip((stem, *channels), channels, blocks, strict=False):
            stages += [ShuffleUnit(in_channels, out_channels, stride=2)]
            stages += [ShuffleUnit(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Conv2d(channels[-1], 2 * channels[-1], 1, bias=False),
            nn.BatchNorm2d(2 * channels[-1]),
            nn.ReLU(inplace=True),
        )
        self.fc = nn.Linear(2 * channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        x = self.head(self.stages(self.stem(x)))
        return self.fc(x.mean([2, 3]))


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _shuffle(x: Tensor) -> Tensor:
    """Interleaves the two halves of the channels, so that the next split mixes them."""
    batch, channels, height, width = x.size()
    x = x.view(batch, 2, channels // 2, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)
