"""Dumper: writes the result of each node of one forward to files (spec 11.8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ConfigError


class Dumper:
    """Writes tensors as ``<layer>_output<i>_<d0>_<d1>..._pytorch<ext>`` into a folder."""

    def __init__(self, folder: Path, extension: str) -> None:
        """Raises ConfigError unless ``extension`` is ``.npy``, ``.float`` or ``.txt``, with or without the dot."""
        extension = extension if extension.startswith(".") else f".{extension}"
        if extension not in _WRITERS:
            raise ConfigError(f"dump_format is '{extension}'; allowed: {', '.join(_WRITERS)}.")
        self._folder = folder
        self._extension = extension

    def write(self, name: str, value: Any) -> None:
        """Writes every tensor in the result ``value`` of node ``name``; other results are left out."""
        outputs = value if isinstance(value, (tuple, list)) else (value,)
        for index, output in enumerate(outputs):
            if isinstance(output, Tensor):
                self._write_tensor(name, index, output.detach().cpu().numpy())

    def _write_tensor(self, name: str, index: int, array: np.ndarray) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        shape = "_".join(str(size) for size in array.shape)
        stem = f"{name}_output{index}_{shape}_pytorch" if shape else f"{name}_output{index}_pytorch"
        _WRITERS[self._extension](self._folder / f"{stem}{self._extension}", array)


def _write_npy(path: Path, array: np.ndarray) -> None:
    np.save(path, array)


def _write_float(path: Path, array: np.ndarray) -> None:
    np.savetxt(path, array.reshape(-1), fmt="%.9g")


def _write_txt(path: Path, array: np.ndarray) -> None:
    np.savetxt(path, array.reshape(-1), fmt="%.9g", header=" ".join(str(size) for size in array.shape), comments="")


_WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    ".npy": _write_npy,
    ".float": _write_float,
    ".txt": _write_txt,
}
