"""Every block of code on the pages runs as it is printed: Python, configurations, commands.

The blocks of a page run in order, in one namespace and in an empty folder. A block with a title is a file of that name.
Blocks without a language are output and formats; they do not run.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.cli.main import main
from hotwheels.amct_pytorch.config.fx.simple_yaml import parse_simple_yaml
from hotwheels.amct_pytorch.quantizers.foreign import trusted

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^ *```$", re.M | re.S
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# Commands that are not run here: they install packages, take minutes, or need the user's own files.
OTHER_COMMANDS = {"cd", "pip", "python", "python3", "tar", "source", "git", "export", "eval", "apt-get", "sudo"}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``line`` is the number of its first line of code."""

    language: str
    title: str | None
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["title"], _dedent(found), text[: found.start("code")].count("\n"))
        for found in FENCE.finditer(text)
    ]


def _dedent(found: re.Match[str]) -> str:
    return "".join(line.removeprefix(found["indent"]) for line in found["code"].splitlines(keepends=True))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def usual_names() -> dict[str, Any]:
    """What a page may use without making it: the reader's model and data, quantized and calibrated."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    images = torch.randn(8, 3, 16, 16)
    amct.create_quant_config_fx("usual/config.json", model)
    quant_model = amct.create_quant_model_fx("usual/config.json", model)
    amct.enable_quantization(quant_model, calibration=True)
    quant_model(images)
    quantized = _dynamic(model, images)
    return {
        **{"torch": torch, "nn": nn, "amct": amct, "np": np},
        **{"model": model, "images": images, "batches": [images], "quant_model": quant_model, "quantized": quantized},
    }


def _dynamic(model: nn.Module, images: torch.Tensor) -> nn.Module:
    amct.create_quant_config("usual/dynamic.json", model, images)
    return amct.quantize_model("usual/dynamic.json", "usual/modified.onnx", "usual/record.txt", model, images)


def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    if block.title is not None:
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        code = "\n" * block.line + block.code  # so that an error names the line of the page
        exec(compile(code, str(page), "exec"), names)
    elif block.language == "sh":
        for line in block.code.replace("\\\n", " ").splitlines():
            _command(line)
    if block.language == "yaml" and Path(block.title or ".yml").suffix in (".yml", ".yaml"):
        parse_simple_yaml(block.code, name(page))


def _command(line: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS, line
    elif words[0] == "amct":
        assert main(words[1:]) == 0, line
    else:
        assert words[0] in OTHER_COMMANDS, f"{line}: neither run nor known"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trusted, "_allowed", None)  # docs/security.md restricts it for the whole process
    monkeypatch.syspath_prepend(str(tmp_path))
    makes_its_own = any(re.search(r"^model = ", one.code, re.MULTILINE) for one in blocks(page))
    names = {"__name__": "page", **({} if makes_its_own else usual_names())}
    for block in blocks(page):
        run(block, page, names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_fences_are_understood(page: Path) -> None:
    """A fence that the search misses would not be run."""
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^ *```(\w+)", text, re.MULTILINE)
    assert opened == [one.language for one in blocks(page)]
    assert set(opened) <= {"python", "yaml", "json", "sh", "proto", "math", "text"}
