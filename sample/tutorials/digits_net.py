"""What the tutorials share: the handwritten digits that come with scikit-learn, and a small network trained on them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

CACHE = Path("tmp/digits_net.pt")  # in the folder in which a tutorial runs


class DigitsNet(nn.Module):
    """Three convolutions and a Linear, for images [N, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc(self.pool(self.relu3(self.conv3(x))).flatten(1))


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns 1,437 images for training with their labels, and 360 others with theirs."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target)
    return images[:-360], labels[:-360], images[-360:], labels[-360:]


def trained() -> DigitsNet:
    """Returns the float network in eval mode; trains it, some seconds, if ``CACHE`` does not have it."""
    torch.manual_seed(0)
    model = DigitsNet()
    if CACHE.exists():
        model.load_state_dict(torch.load(CACHE, weights_only=True))
    else:
        train(model, epochs=6, lr=0.01)
        CACHE.parent.mkdir(exist_ok=True)
        torch.save(model.state_dict(), CACHE)
    return model.eval()


def train(model: nn.Module, epochs: int, lr: float) -> None:
    """Trains ``model``, quantized or not, in place."""
    images, labels, _, _ = load()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Returns the share of the 360 digits that ``model`` recognizes, in percent."""
    _, _, images, labels = load()
    return 100 * (model(images).argmax(1) == labels).float().mean().item()
