"""The function that a process of the zoo runs; importing this module imports all libraries."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import torch

from . import conformance
from .architectures import ARCHITECTURES

_ROOT = Path(__file__).resolve().parents[2]


def _commit() -> str:
    """Returns the commit of the code, with ``-dirty`` if code was changed after it; empty without git.

    The page and its rows, which a run renews, are no code.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    is_dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!benchmarks/zoo/rows.jsonl")
    return git("rev-parse", "--short=7", "HEAD") + ("-dirty" if is_dirty else "")


_COMMIT = _commit()  # when the code is imported, before the first network runs


def work(name: str, path: Path) -> None:
    """Runs one architecture on one thread and writes its outcome to ``path``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcome = conformance.run(ARCHITECTURES[name])
    outcome.commit = _COMMIT
    outcome.write(path)
