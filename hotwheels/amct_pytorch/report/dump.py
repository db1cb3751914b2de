"""Dumper: writes the result of each node of one forward to files (spec 11.8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from ..errors import ConfigError
from ..files import FileSet


class Dumper:
    """Writes tensors as ``<layer>_output<i>_<d0>_<d1>..._pytorch<ext>`` into a folder."""

    def __init__(self, folder: Path, extension: str) -> None:
        """Raises ConfigError unless ``extension`` is ``.npy``, ``.float`` or ``.txt``, with or without the dot."""
        extension = extension if extension.startswith(".") else f".{extension}"
        if extension not in _WRITERS:
            raise ConfigError(f"dump_format is '{extension}'; allowed: {', '.join(_WRITERS)}.")
        self._folder = folder.absolute()  # the script may change the working directory before the forward
        self._extension = extension

    def write(self, name: str, value: Any) -> None:
        """Writes every tensor in the result ``value`` of node ``name``; other results are left out."""
        outputs = value if isinstance(value, (tuple, list)) else (value,)
        for index, output in enumerate(outputs):
            if isinstance(output, Tensor):
                self._write_tensor(name, index, output.detach().cpu().numpy())

    def _write_tensor(self, name: str, index: int, array: np.ndarray) -> None:
        shape = "_".join(str(size) for size in array.shape)
        stem = f"{name}_output{index}_{shape}_pytorch" if shape else f"{name}_output{index}_pytorch"
        path = self._folder / f"{stem}{self._extension}"
        with FileSet(is_durable=False) as files, files.open(path) as file:
            _WRITERS[self._extension](file, array)


def _write_npy(file: BinaryIO, array: np.ndarray) -> None:
    np.save(file, array)


def _write_float(file: BinaryIO, array: np.ndarray) -> None:
    np.savetxt(file, array.reshape(-1), fmt="%.9g")


def _write_txt(file: BinaryIO, array: np.ndarray) -> None:
    np.savetxt(file, array.reshape(-1), fmt="%.9g", header=" ".join(str(size) for size in array.shape), comments="")


_WRITERS: dict[str, Callable[[BinaryIO, np.ndarray], None]] = {
    ".npy": _write_npy,
    ".float": _write_float,
    ".txt": _write_txt,
}
