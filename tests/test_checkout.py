"""The error of a checkout that is not installed, and the content of a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_checkout_that_is_not_installed_says_so_in_one_sentence(tmp_path: Path) -> None:
    """The folder of a clone hides an installed package: Python looks there first."""
    package = tmp_path / "hotwheels" / "amct_pytorch"
    shutil.copytree(ROOT / "hotwheels" / "amct_pytorch", package, ignore=shutil.ignore_patterns("__pycache__"))
    # -I ignores the environment; -S leaves out site-packages, where an editable install would answer.
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import hotwheels.amct_pytorch"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: This hotwheels/amct_pytorch is a checkout that is not installed")
    assert "circular" not in ran.stderr


def test_marker_of_types_is_part_of_the_package() -> None:
    assert (ROOT / "hotwheels" / "amct_pytorch" / "py.typed").is_file()
