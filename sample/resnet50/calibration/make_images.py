"""Writes ./images: 160 of the held-out digits as PNG files and image_label.txt, the list of their names and labels.

The files are part of the sample; this script shows their origin and can write them again.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from PIL import Image

from sample.common import digits

FOLDER = Path(__file__).resolve().parent / "images"
COUNT = 160


def main() -> None:
    _, held_out = digits.load()
    FOLDER.mkdir(exist_ok=True)
    lines = []
    for index in range(COUNT):
        name = f"digit_{index:03d}.png"
        Image.fromarray(held_out.images[index].numpy()).save(FOLDER / name, optimize=True)
        lines.append(f"{name} {int(held_out.labels[index])}\n")
    (FOLDER / "image_label.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
