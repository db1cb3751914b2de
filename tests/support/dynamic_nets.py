"""Small models that the FX path cannot trace, or whose operations are modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.nets import shake_batch_norms


class Block(nn.Module):
    """A residual block as the sample of HiSilicon's AMCT manual has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.eltwise_add = amct.EltwiseAdd()
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu2(self.eltwise_add(y, x))


class SmallResNet(nn.Module):
    """Modules only, so that both paths see the same operations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(Block(4))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(4, 5)
        shake_batch_norms(self)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(image)))))
        return self.fc(self.flatten(self.avgpool(x)))


class Decides(nn.Module):
    """Looks at values, which no static graph does, and has a forward of its own on one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.bright = nn.Conv2d(3, 4, 3)
        self.dark = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bright(x) if float(x.mean()) > -100 else self.dark(x)
        assert y.shape[1] == 4
        return self.relu(y)


class Reuses(nn.Module):
    """One sigmoid for two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.sigmoid = nn.Sigmoid()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.sigmoid(self.conv(self.sigmoid(x)))


class ManyTensors(nn.Module):
    """Integer ids and a flag beside float states; two outputs; keywords; a Linear on three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.add = amct.EltwiseAdd()
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)
        self.matmul = amct.MatMul()
        self.softmax = nn.Softmax(-1)
        self.out = nn.Linear(6, 3)
        self.eval()

    def forward(self, ids: Tensor, states: Tensor, scale: float = 1.0) -> dict[str, Tensor] | tuple[Tensor, Tensor]:
        x = self.add(self.embedding(ids), states * scale)
        scores = self.matmul(self.query(x), self.key(input=x).transpose(1, 2))
        return self.out(F.relu(self.softmax(scores) @ x)), scores


class Branches(nn.Module):
    """Concatenation, splitting, a transposed convolution with its BatchNorm, several readers of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.cat, self.split = amct.Cat(1), amct.Split(4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2, padding=1, count_include_pad=True)
        shake_batch_norms(self)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.split(self.cat(self.left(x), self.right(x)))
        return self.norm(self.up(first)), self.pool(second)


def images(*batch_sizes: int, size: int = 8) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(batch, 3, size, size, generator=generator),) for batch in batch_sizes]
