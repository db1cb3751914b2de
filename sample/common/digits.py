"""The UCI handwritten digits that come with scikit-learn, as small RGB images."""

import dataclasses

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from sample.common.images import normalize

IMAGE_SIZE = 32
NUM_CLASSES = 10
HELD_OUT = 360
FOLDS = 5  # of HELD_OUT images each, the last of 357


@dataclasses.dataclass(frozen=True)
class Digits:
    """Grey images and their labels.

    Attributes:
      images: uint8 ``[N, 32, 32]``, ink is bright.
      labels: int64 ``[N]``, the digit.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def normalized(self) -> Tensor:
        """Returns the images as input of a network: float32 ``[N, 3, 32, 32]``."""
        return to_input(self.images)


def load(fold: int = 0) -> tuple[Digits, Digits]:
    """Returns the training part and the 360 held-out digits; the same on every machine.

    For cross-validation, each ``fold``, 0..4, holds out different digits; the five folds together hold out all digits.
    """
    source = load_digits()
    order = np.random.RandomState(0).permutation(len(source.target))
    images = torch.from_numpy(np.stack([_enlarge(source.images[index]) for index in order]))
    labels = torch.from_numpy(source.target[order]).long()
    is_held_out = torch.arange(len(order)) // HELD_OUT == fold
    return Digits(images[~is_held_out], labels[~is_held_out]), Digits(images[is_held_out], labels[is_held_out])


def to_input(images: Tensor) -> Tensor:
    """Maps grey uint8 ``[N, H, W]`` to normalized float32 ``[N, 3, H, W]``, as the loader of image files does."""
    return normalize(images.unsqueeze(1).expand(-1, 3, -1, -1))


def _enlarge(digit: np.ndarray) -> np.ndarray:
    """Scales an 8x8 digit of 16 grey levels to 32x32 and 256 levels."""
    grey = np.round(digit * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
