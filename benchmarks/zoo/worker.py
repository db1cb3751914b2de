"""The function that a process of the zoo runs; importing this module imports all libraries."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from . import conformance
from .architectures import ARCHITECTURES


def work(name: str, path: Path) -> None:
    """Runs one architecture on one thread and writes its outcome to ``path``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    conformance.run(ARCHITECTURES[name]).write(path)
