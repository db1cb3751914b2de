"""Training and evaluation data of the retraining samples: folders of images, or the digits."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from sample.common import digits
from sample.common.evaluation import Batches
from sample.common.images import ImageList, fit, normalize, read_folders

# Smallest part of an image's area that torchvision's training recipes crop; the largest is the whole area.
SMALLEST_CROP = 0.08
LabelledImages = Dataset[tuple[Tensor, int]]


@dataclasses.dataclass(frozen=True)
class Loaders:
    """The batches of one process.

    Attributes:
      train: Shuffled; in distributed training the share of this process.
      evaluation: All of the evaluation set, in order.
    """

    train: Batches
    evaluation: Batches

    def start_epoch(self, epoch: int) -> None:
        """Sets the order of the training images for this epoch, the same for all processes."""
        if isinstance(self.train.sampler, DistributedSampler):
            self.train.sampler.set_epoch(epoch)


class ImageFolders(Dataset[tuple[Tensor, int]]):
    """Images in one folder per class, as in torch's ImageNet example; a label is the index in the sorted folders."""

    def __init__(self, root: Path, image_size: int, augments: bool) -> None:
        self.image_size = image_size
        self.augments = augments
        self.entries = read_folders(root)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.entries[index]
        with Image.open(path) as file:
            image = file.convert("RGB")
        image = _random_crop(image, self.image_size) if self.augments else fit(image, self.image_size)
        return normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1)), label


def make_loaders(
    train_set: Path | None, eval_set: Path | None, image_size: int, batch_size: int, workers: int, distributed: bool
) -> Loaders:
    """Returns the batches of two data sets, each a list file or a folder of class folders; None means the digits."""
    if train_set is None or eval_set is None:
        train, evaluation = (TensorDataset(part.normalized(), part.labels) for part in digits.load())
        workers = 0  # the digits are in memory
    else:
        train, evaluation = _images(train_set, image_size, True), _images(eval_set, image_size, False)
    sampler = DistributedSampler(train) if distributed else None
    # The last, smaller batch is dropped: it would disturb the batch statistics.
    return Loaders(
        DataLoader(train, batch_size, shuffle=sampler is None, sampler=sampler, num_workers=workers, drop_last=True),
        DataLoader(evaluation, batch_size, num_workers=workers),
    )


def _images(path: Path, image_size: int, augments: bool) -> LabelledImages:
    return ImageFolders(path, image_size, augments) if path.is_dir() else ImageList(path, image_size)


def _random_crop(image: Image.Image, size: int) -> Image.Image:
    """Scales a random part of the image to ``size`` and mirrors every other one."""
    share = SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(()).item()
    width, height = (max(1, round(side * share**0.5)) for side in image.size)
    left = int(torch.randint(0, image.size[0] - width + 1, ()))
    top = int(torch.randint(0, image.size[1] - height + 1, ()))
    box = (left, top, left + width, top + height)
    part = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else part
