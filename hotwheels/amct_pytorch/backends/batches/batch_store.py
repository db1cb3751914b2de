"""BatchStore: values of several batches of two networks, in memory up to a limit, beyond it in temporary files."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ...torch_private import pytree

BYTES_IN_MEMORY = 1 << 30


@dataclasses.dataclass(frozen=True)
class _OnDisk:
    path: Path


class BatchStore:
    """Keeps named values per batch and network, in memory up to a limit of bytes and in a temporary folder beyond it.

    A context manager: the folder is removed at exit.
    """

    def __init__(self, batches: int, limit: int = BYTES_IN_MEMORY) -> None:
        self.batches = batches
        self._limit = limit
        self._kept: dict[tuple[int, bool, str], Any] = {}
        self._sizes: dict[tuple[int, bool, str], int] = {}
        self._used = 0
        self._count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> BatchStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, batch: int, is_quantized: bool, name: str, value: Any) -> None:
        """Keeps ``value``; on disk if it holds tensors and the limit is reached."""
        key, size = (batch, is_quantized, name), _size(value)
        if self._used + size > self._limit and size:
            self._kept[key] = self._write(value)
            return
        self._kept[key], self._sizes[key] = value, size
        self._used += size

    def get(self, batch: int, is_quantized: bool, name: str) -> Any:
        """Returns one value."""
        value = self._kept[batch, is_quantized, name]
        return torch.load(value.path, weights_only=False) if isinstance(value, _OnDisk) else value

    def has(self, batch: int, is_quantized: bool, name: str) -> bool:
        """Whether the value was put and not dropped."""
        return (batch, is_quantized, name) in self._kept

    def drop(self, names: Iterable[str]) -> None:
        """Forgets the values of these names, of all batches and both networks."""
        for name in names:
            for batch in range(self.batches):
                for is_quantized in (False, True):
                    value = self._kept.pop((batch, is_quantized, name), None)
                    self._used -= self._sizes.pop((batch, is_quantized, name), 0)
                    if isinstance(value, _OnDisk):
                        value.path.unlink()

    def _write(self, value: Any) -> _OnDisk:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="amct_refine_")
        self._count += 1
        file = _OnDisk(Path(self._folder.name) / f"{self._count}.pt")
        torch.save(value, file.path)
        return file


def copied(tree: Any) -> Any:
    """Returns ``tree`` with a copy of every tensor, since a forward may change its inputs in place."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)


def _size(value: Any) -> int:
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
