"""Labelled image files: the list of their names and the loader that converts them to network inputs."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
# Mean and deviation of ImageNet's RGB channels, which torchvision's checkpoints were trained with.
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
# torchvision evaluates on the central 224 pixels of an image whose shorter side is 256.
CROP_RATIO = 224 / 256


class ImageList(Dataset[tuple[Tensor, int]]):
    """The images of a list file, each line a file name and a label; names are relative to the list's folder.

    Or those of a folder with one folder per class.

    An image of exactly ``image_size`` pixels is taken as it is, any other one is scaled and cropped at the centre.
    """

    def __init__(self, list_file: Path, image_size: int) -> None:
        self.image_size = image_size
        self.entries = read_folders(list_file) if list_file.is_dir() else read_list(list_file)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.entries[index]
        with Image.open(path) as image:
            pixels = np.array(fit(image.convert("RGB"), self.image_size))
        return normalize(torch.from_numpy(pixels).permute(2, 0, 1)), label


def read_list(list_file: Path) -> list[tuple[Path, int]]:
    """Returns the paths and labels of a list file.

    Raises:
      ValueError: A line does not end in an integer label, or no line is left. The message names file and line.
    """
    entries = []
    for number, line in enumerate(list_file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise ValueError(f"{list_file}:{number}: expected '<image file> <label>', found '{line}'.")
        entries.append((list_file.parent / name.strip(), int(label)))
    if not entries:
        raise ValueError(f"{list_file} names no image.")
    return entries


def read_folders(root: Path) -> list[tuple[Path, int]]:
    """Returns the images in one folder per class, as torch's ImageNet example has them; sorted folders are the labels.

    Raises:
      SystemExit: There is none.
    """
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    entries = [
        (file, label)
        for label, folder in enumerate(folders)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not entries:
        raise SystemExit(f"{root} holds no images in class folders (<class>/<image>.jpg).")
    return entries


def image_loader(list_file: Path, image_size: int, batch_size: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Returns batches of images float32 ``[N, 3, image_size, image_size]`` and labels ``[N]``, in the list's order."""
    return DataLoader(ImageList(list_file, image_size), batch_size=batch_size)


def normalize(pixels: Tensor) -> Tensor:
    """Maps uint8 ``[..., 3, H, W]`` to float32 with ImageNet's mean 0 and deviation 1."""
    return (pixels / 255 - MEAN) / STD


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scales and crops the centre to ``size`` times ``size`` pixels; an image of that size is unchanged."""
    if image.size == (size, size):
        return image
    scale = size / CROP_RATIO / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
