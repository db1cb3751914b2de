"""Small models with the typical structures of real models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions with BatchNorm and ReLU, a shortcut, a head: what most image models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)
        shake_batch_norms(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        y = self.bn1(self.conv1(x))
        y += x
        return self.head(torch.flatten(self.pool(F.relu(y)), 1))


class Tokens(nn.Module):
    """Integer ids and a mask beside float states; a Linear on three dimensions; matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        ids = ids + 1
        x = self.embedding(ids) + states
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        scores = scores.masked_fill(mask.unsqueeze(1) == 0, -5.0)
        size = x.shape[:1] + (x.shape[1] * 3,)
        return self.out(torch.softmax(scores, -1) @ x).view(size), scores


def shake_batch_norms(model: nn.Module) -> None:
    """Gives every BatchNorm statistics and affine values that folding must get right."""
    for norm in (one for one in model.modules() if isinstance(one, (nn.BatchNorm2d, nn.SyncBatchNorm))):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
