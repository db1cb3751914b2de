"""Photographs for measuring on real networks: stamps of tuxpaint on plain grounds and on nature photographs of MATE.

Both are Debian packages (tuxpaint-stamps-default, mate-backgrounds), fetched with apt-get on the first call. The same
pictures come out on every machine.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CACHE = Path(os.environ.get("AMCT_PICTURES", str(Path.home() / ".cache" / "amct-pictures")))
PACKAGES = ("tuxpaint-stamps-default", "mate-backgrounds")
_NO_PHOTOGRAPHS = re.compile(r"symbols|cartoon|space/|flags|seasonal|houses|roadsigns")
_PER_STAMP = 3
_GROUND_SIZE = (480, 320)
_CROP = 256


def pictures(size: int, mean: float, std: float, folder: Path | None = None) -> Tensor:
    """Returns photographs [N, 3, size, size] as ``(x - mean) / std`` of 8-bit values, in a fixed random order.

    Args:
      size: Height and width.
      mean: Subtracted from the 8-bit values.
      std: Divides the difference.
      folder: Folder with the user's pictures, read in the order of their names; None for the Debian packages.
    """
    values = _made(size) if folder is None else _read(size, folder)
    return (torch.from_numpy(values).permute(0, 3, 1, 2).float() - mean) / std


def _read(size: int, folder: Path) -> NDArray[np.uint8]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])


def _made(size: int) -> NDArray[np.uint8]:
    cache = CACHE / f"u8_{size}_{_PER_STAMP}.npy"
    if not cache.exists():
        _unpack()
        generator = np.random.default_rng(0)
        drawn = np.stack(list(_draw(size, generator)))
        np.save(cache, drawn[generator.permutation(len(drawn))])
    loaded: NDArray[np.uint8] = np.load(cache)
    return loaded


def _unpack() -> None:
    if (CACHE / "done").exists():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        subprocess.run(["apt-get", "download", "-q", name], cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
        (package,) = CACHE.glob(f"{name}*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(CACHE)], check=True)
        package.unlink()
    (CACHE / "done").touch()


def _draw(size: int, generator: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Yields each stamp on white, and moved and scaled on two photographs (on grey if there are none)."""
    stamps = sorted((CACHE / "usr/share/tuxpaint/stamps").rglob("*.png"), key=str)
    nature = sorted((CACHE / "usr/share/backgrounds/mate/nature").glob("*.jpg"))
    grounds = [Image.open(file).convert("RGB").resize(_GROUND_SIZE) for file in nature]
    for file in (one for one in stamps if not _NO_PHOTOGRAPHS.search(str(one))):
        stamp = Image.open(file).convert("RGBA")
        for copy in range(_PER_STAMP):
            ground = _ground(copy, 2 * size, grounds, generator)
            scale = 2 * size * generator.uniform(0.55, 0.92) / max(stamp.size)
            width, height = (max(1, int(side * scale)) for side in stamp.size)
            placed = stamp.resize((width, height), Image.Resampling.BICUBIC)
            corner = int(generator.integers(0, 2 * size - width + 1)), int(generator.integers(0, 2 * size - height + 1))
            ground.paste(placed, corner, placed)
            yield np.asarray(ground.resize((size, size), Image.Resampling.BICUBIC))


def _ground(copy: int, side: int, grounds: list[Image.Image], generator: np.random.Generator) -> Image.Image:
    if copy == 0 or not grounds:
        return Image.new("RGB", (side, side), (255, 255, 255) if copy == 0 else (120, 120, 120))
    chosen = grounds[int(generator.integers(len(grounds)))]
    x, y = (int(generator.integers(0, whole - _CROP)) for whole in _GROUND_SIZE)
    return chosen.crop((x, y, x + _CROP, y + _CROP)).resize((side, side))
