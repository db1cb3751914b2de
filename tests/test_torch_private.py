"""All private names of torch are in one table, and each may be missing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.torch_names import NAMES, missing_names, require
from tests.support.sources import ROOT, sources

OWNERS = {"torch_names.py", "torch_private.py", "torch_torchscript.py"}

# Imports the package and takes a small model from its configuration to its files, with the names of argv[1:] hidden.
FLOW = """
import sys
from hotwheels.amct_pytorch import torch_names
hidden, look_up = set(sys.argv[1:]), torch_names._look_up
torch_names._look_up = lambda path: None if path in hidden else look_up(path)
import torch
import hotwheels.amct_pytorch as amct
nn = torch.nn
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)).eval()
x = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
def shown(step):
    try:
        step()
    except amct.TorchVersionError as error:
        print("refused:", error)
def fx():
    amct.create_quant_config_fx("config.json", net, input_data=x)
    model = amct.create_quant_model_fx("config.json", net, input_data=x)
    amct.enable_quantization(model, calibration=True)
    model(x)
    amct.enable_quantization(model, fake_quant=True)
    model.train()(x).sum().backward()
    model.eval()
    amct.enable_quantization(model, real_quant=True)
    model(x)
    amct.save_quant_model_fx(model, "out/fx", x)
    print("FX done")
def dynamic():
    amct.create_quant_config("dynamic.json", net, x)
    amct.quantize_model("dynamic.json", "modified.onnx", "record.txt", net, x)(x)
    amct.save_model("modified.onnx", "record.txt", "out/dynamic")
    print("dynamic done")
shown(fx)
shown(dynamic)
"""


def test_this_torch_has_every_name() -> None:
    assert missing_names() == {}


def test_private_names_are_used_through_the_table_only() -> None:
    found = [f"{path.name}:{line} {name}" for path in sources() if path.name not in OWNERS for line, name in used(path)]
    assert not found


def used(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that import or read a private name of torch."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{one.name}" for one in node.names]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)] if is_dotted(node) else []
        for name in names:
            first, *rest = name.split(".")
            if first == "torch" and rest and any(is_private(part) for part in rest):
                yield node.lineno, name


def is_dotted(node: ast.expr) -> bool:
    return is_dotted(node.value) if isinstance(node, ast.Attribute) else isinstance(node, ast.Name)


def is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


def test_the_search_finds_private_names(tmp_path: Path) -> None:
    file = tmp_path / "page.py"
    file.write_text("from torch.fx._x import y\nimport torch\ntorch._C.z()\ntorch.nn.Module.__call__\n")
    assert set(used(file)) == {(1, "torch.fx._x.y"), (3, "torch._C"), (3, "torch._C.z")}


def optional() -> list[str]:
    """The names that have a fallback: those in front of the first one that `require` is called for."""
    names = list(NAMES)
    return names[: names.index("torch.Tensor._version")]


def run_without(names: list[str], folder: Path) -> str:
    paths = [path for name in names for path in name.split("|")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "AMCT_LOG_LEVEL": "ERROR"}
    ended = subprocess.run(
        [sys.executable, "-c", FLOW, *paths], capture_output=True, text=True, cwd=folder, env=env, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_names_with_a_fallback_may_all_be_missing(tmp_path: Path) -> None:
    assert run_without(optional(), tmp_path).splitlines() == ["FX done", "dynamic done"]


def test_without_the_others_each_path_says_what_to_install(tmp_path: Path) -> None:
    lines = run_without(list(NAMES), tmp_path).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("refused: torch ") and "pip install 'torch>=" in line for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_names_what_is_lost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotwheels.amct_pytorch.torch_names.find", lambda name: None)
    with pytest.raises(RuntimeError, match="Install a version that was tested") as caught:
        require(name)
    assert NAMES[name] in str(caught.value)
