"""The tutorials run alone, each in an empty folder, with the network that the first of them trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "sample" / "tutorials"
SHARED = "digits_net"
TUTORIALS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != SHARED)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the network."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, "-c", "import digits_net; print(digits_net.accuracy(digits_net.trained()))")
    return folder / "tmp" / "digits_net.pt"


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_runs(name: str, trained: Path, tmp_path: Path) -> None:
    """What was quantized recognizes the digits about as the float network does."""
    if name != "transformer":  # which trains a network of its own
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp" / "digits_net.pt").write_bytes(trained.read_bytes())
    output = run(tmp_path, str(FOLDER / f"{name}.py"))
    assert list((tmp_path / "out").glob("*_deploy_model.onnx")) or name == "tuning_with_the_analyzer"
    shares = [float(one) for one in re.findall(r"(\d+\.\d+) %", output)]
    assert shares or name == "deploy_verify_compare"
    assert all(one > 80 for one in shares), output


def test_tutorials_are_short_and_on_the_page() -> None:
    page = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    links = re.findall(r"^\[(\w+)\.py\]\(\.\./sample/tutorials/\1\.py\)$", page, re.MULTILINE)
    assert sorted(links) == TUTORIALS
    for name in (*TUTORIALS, SHARED):
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert text.count("\n") < 80, name
        assert name == SHARED or f"\nRun: python sample/tutorials/{name}.py\n" in text, name


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER}", "AMCT_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
