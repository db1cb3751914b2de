"""Networks with a padding in front of a convolution or pooling, for both paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Padded(nn.Module):
    """A convolution, perhaps an activation, the padding, the layer, and a layer that rounds its result."""

    def __init__(self, pad: Callable[[Tensor], Tensor], layer: nn.Module, bend: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.bend = nn.Conv2d(3, 4, 3), bend or nn.Identity()
        self.pad, self.layer, self.last = pad, layer, nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.pad(self.bend(self.first(x)))))


class CalledPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, (3, 2), stride=2)


class Shared(nn.Module):
    """The padding is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.first(x), (1, 1, 1, 1))
        return self.layer(x) + self.other(x)


def pad_by(*margins: int, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, margins, **kwargs)


class Sequence1d(nn.Module):
    """`Padded` with sequences."""

    def __init__(self, margins: tuple[int, int], layer: nn.Module) -> None:
        super().__init__()
        self.first, self.bend, self.margins = nn.Conv1d(3, 4, 3), nn.ReLU(), margins
        self.layer, self.last = layer, nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(F.pad(self.bend(self.first(x[:, :, 0])), self.margins)))


FOLDED = {
    "ZeroPad2d, stride": (lambda: Padded(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3, stride=2)), [0, 0, 1, 1]),
    "ConstantPad2d": (lambda: Padded(nn.ConstantPad2d((2, 0, 1, 3), 0.0), nn.Conv2d(4, 4, 3)), [1, 2, 3, 0]),
    "own padding": (lambda: Padded(pad_by(1, 2), nn.Conv2d(4, 4, 3, padding=(0, 1), groups=2)), [0, 2, 0, 3]),
    "same": (lambda: Padded(pad_by(1, 0), nn.Conv2d(4, 4, 3, padding="same", dilation=2)), [2, 3, 2, 2]),
    "weight_norm": (
        lambda: Padded(pad_by(0, 1, 1, 0), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 2))), [1, 0, 0, 1]
    ),
    "avg_pool": (lambda: Padded(pad_by(1, 0, 2, 1), nn.AvgPool2d(3, 2)), [2, 1, 1, 0]),
    "avg_pool, counted padding": (lambda: Padded(pad_by(1, 0, 0, 1), nn.AvgPool2d(3, 2, 1)), [1, 2, 2, 1]),
    "F.avg_pool2d": (lambda: Padded(pad_by(1, 0), CalledPool()), [0, 1, 0, 0]),
    "max_pool of ReLU": (lambda: Padded(pad_by(0, 1, 0, 1), nn.MaxPool2d(3, 2), nn.ReLU()), [0, 0, 1, 1]),
    "Conv1d": (lambda: Sequence1d((2, 0), nn.Conv1d(4, 4, 3)), [0, 2, 0, 0]),
    "MaxPool1d": (lambda: Sequence1d((1, 0), nn.MaxPool1d(3, 2, 1)), [0, 2, 0, 1]),
    "AvgPool1d": (lambda: Sequence1d((0, 2), nn.AvgPool1d(3, 1)), [0, 0, 0, 2]),
    "max_pool of a pooling": (
        lambda: Padded(pad_by(0, 1), nn.MaxPool2d(2), nn.Sequential(nn.Sigmoid(), nn.AvgPool2d(2))), [0, 0, 0, 1]
    ),
}  # fmt: skip
KEPT = {
    "max_pool of any value": lambda: Padded(pad_by(0, 1, 0, 1), nn.MaxPool2d(3, 2)),
    "avg_pool, padding that does not count": lambda: Padded(
        pad_by(1, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    ),
    "as large as the window": lambda: Padded(pad_by(2, 0), nn.AvgPool2d(2)),
    "ceil_mode": lambda: Padded(pad_by(1, 0), nn.AvgPool2d(2, ceil_mode=True)),
    "another value": lambda: Padded(pad_by(1, 1, value=0.5), nn.Conv2d(4, 4, 3)),
    "another mode": lambda: Padded(pad_by(1, 1, 1, 1, mode="reflect"), nn.Conv2d(4, 4, 3)),
    "cropping": lambda: Padded(pad_by(1, -1), nn.Conv2d(4, 4, 3)),
    "channels": lambda: Padded(pad_by(0, 0, 0, 0, 0, 1), nn.Conv2d(5, 4, 3)),
    "circular convolution": lambda: Padded(pad_by(1, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
    "transposed convolution": lambda: Padded(pad_by(1, 1), nn.ConvTranspose2d(4, 4, 3)),
    "read twice": Shared,
}
