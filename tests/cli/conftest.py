"""The entry point ``amct`` as an installation has it, and a small model that it has quantized."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, classes)

    def forward(self, image):
        return self.fc(torch.relu(self.bn(self.conv(image))).mean((2, 3)))


class Two(Net):
    def forward(self, image, ids):
        return super().forward(image) + ids.float().sum()


class Fails(Net):
    def forward(self, image):
        raise KeyError("the user's own")


class NoOutput(Net):
    def forward(self, image):
        if image.sum() > 0:  # a branch on data
            return super().forward(image)
        return image


def build():
    torch.manual_seed(0)
    return Net()


def no_model():
    return {}


SIZE = 3
"""


@dataclasses.dataclass(frozen=True)
class Ran:
    """The exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line on stderr: log lines and progress bars may stand before it."""
        return self.err.strip().splitlines()[-1]


Amct = Callable[..., Ran]


def entry_point() -> Callable[[], int]:
    """The function of the console script; a checkout may have an older egg-info beside the installed metadata."""
    distributions = importlib.metadata.distributions(name="hotwheels-amct-pytorch")
    scripts = [one for found in distributions for one in found.entry_points if one.group == "console_scripts"]
    load: Callable[[], int] = next(one for one in scripts if one.name == "amct").load()
    return load


@pytest.fixture
def amct(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Amct]:
    """Runs ``amct`` with arguments, through the function that the console script calls."""
    path, models = list(sys.path), str(tmp_path_factory.getbasetemp())  # where tests write their models

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["amct", *map(str, arguments)])
        capsys.readouterr()
        code = entry_point()()
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield run
    sys.path[:] = path
    of_a_test = [name for name, one in sys.modules.items() if str(getattr(one, "__file__", "")).startswith(models)]
    for name in of_a_test:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``net.py`` and ``images.npy`` of four images."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_inputs(folder: Path) -> None:
    (folder / "net.py").write_text(MODEL)
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16), dtype=np.float32)
    np.save(folder / "images.npy", images)
    np.save(folder / "image.npy", images[:1])


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``amct quantize`` has written ``out``; not to be changed."""
    import os
    import subprocess

    folder = tmp_path_factory.mktemp("quantized")
    write_inputs(folder)
    line = [Path(sys.executable).with_name("amct"), "quantize", "-m", "net.build", "-i", "images.npy", "-o", "out"]
    ran = subprocess.run(
        [*map(str, line), "--name", "net"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (folder / "stdout.txt").write_text(ran.stdout)
    (folder / "stderr.txt").write_text(ran.stderr)
    return folder
