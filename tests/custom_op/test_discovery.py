"""A folder put into custom_op is found; an unusable folder is named, and the others still work."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hotwheels.amct_pytorch import custom_op
from hotwheels.amct_pytorch.custom_op import CustomModuleBase, discovery, register_custom_op
from hotwheels.amct_pytorch.custom_op.discovery import registered_custom_ops

GOOD = """
import torch
from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase
from hotwheels.amct_pytorch.custom_op.max.max import Max

class {name}(CustomModuleBase):
    onnx_type = "Abs"
    num_inputs = 1

    def forward(self, x):
        return torch.abs(x)
"""
BUILT_IN = ["Cat", "Eltwise", "EltwiseAdd", "EltwiseDiv", "EltwiseMul", "EltwiseSub", "MatMul", "Max", "Min", "Split"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the package's path, as if its content had been put beside the built-in operations."""
    monkeypatch.setattr(custom_op, "__path__", [*custom_op.__path__, str(tmp_path)])
    monkeypatch.setattr(discovery, "_known", dict(discovery._known))
    monkeypatch.setattr(discovery, "_quantized", set(discovery._quantized))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(f"{custom_op.__name__}."):
            parent, _, child = name.rpartition(".")
            sys.modules.pop(name)
            vars(sys.modules.get(parent, custom_op)).pop(child, None)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The lines logged at WARNING or above. A handler of our own, so that no log file is made."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("hotwheels.amct_pytorch")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def add(folder: Path, op: str, text: str, with_init: bool = False) -> Path:
    file = folder / op / f"{op}.py"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    if with_init:
        (file.parent / "__init__.py").touch()
    return file


def discover() -> list[str]:
    """Runs the discovery of the package's import once more; returns the names of the classes it adds."""
    before = set(registered_custom_ops())
    discovery.discover_custom_ops(custom_op.__path__, custom_op.__name__)
    return [cls.__name__ for cls in registered_custom_ops() if cls not in before]


def test_built_in_classes_are_known() -> None:
    names = {cls.__name__ for cls in registered_custom_ops()}
    assert names >= set(BUILT_IN)


@pytest.mark.parametrize("with_init", [False, True])
def test_a_new_folder_is_found(folder: Path, warnings: list[str], with_init: bool) -> None:
    add(folder, "my_abs", GOOD.format(name="MyAbs"), with_init)
    assert discover() == ["MyAbs"]
    found = registered_custom_ops()[-1]
    assert found.__module__ == "hotwheels.amct_pytorch.custom_op.my_abs.my_abs"
    assert torch.equal(found()(torch.tensor([-2.0])), torch.tensor([2.0]))
    assert warnings == []


def test_looking_twice_finds_the_same(folder: Path) -> None:
    add(folder, "my_abs", GOOD.format(name="MyAbs"))
    discover()
    assert discover() == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'."),
        ("1 / 0\n", "ZeroDivisionError: division by zero."),
        (GOOD.format(name="NoType").replace("onnx_type", "type"), "NoType' needs a class attribute onnx_type"),
        ("from hotwheels.amct_pytorch.custom_op.max.max import Max\n", "it defines no subclass of CustomModuleBase"),
    ],
    ids=["syntax", "missing import", "raises", "no onnx_type", "no class of its own"],
)
def test_a_broken_file_is_named_and_the_rest_found(folder: Path, warnings: list[str], text: str, reason: str) -> None:
    file = add(folder, "a_broken", text)
    add(folder, "my_abs", GOOD.format(name="MyAbs"))
    assert discover() == ["MyAbs"]
    [line] = warnings
    assert line.startswith(f"Extension file '{file}' is ignored: ")
    assert reason in line


def test_a_folder_without_its_file_is_named(folder: Path, warnings: list[str]) -> None:
    add(folder, "my_abs", GOOD.format(name="MyAbs")).rename(folder / "my_abs" / "abs.py")
    assert discover() == []
    assert warnings == [f"Extension folder '{folder / 'my_abs'}' is ignored: it has no file 'my_abs.py'."]


def test_other_files_and_folders_are_passed_over(folder: Path, warnings: list[str]) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").touch()
    (folder / "loose.py").touch()
    assert discover() == []
    assert warnings == []


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_known", dict(discovery._known))
    monkeypatch.setattr(discovery, "_quantized", set(discovery._quantized))


@pytest.mark.usefixtures("known")
def test_registering_twice_changes_nothing() -> None:
    class Mine(CustomModuleBase):
        onnx_type = "Abs"

    assert register_custom_op(Mine) is Mine
    register_custom_op(Mine)
    assert [cls for cls in registered_custom_ops() if cls.__name__ == "Mine"] == [Mine]


@pytest.mark.usefixtures("known")
def test_a_class_defined_anew_takes_the_place_of_its_former_self() -> None:
    def define() -> type[CustomModuleBase]:
        class Again(CustomModuleBase):
            onnx_type = "Abs"

        return register_custom_op(Again)

    define()
    second = define()
    assert [cls for cls in registered_custom_ops() if cls.__name__ == "Again"] == [second]


@pytest.mark.parametrize("wrong", [torch.nn.ReLU, custom_op.Max(), CustomModuleBase, "Max", None])
def test_registering_anything_else_is_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="argument 'cls' must be a subclass of CustomModuleBase, got"):
        register_custom_op(wrong)  # type: ignore[type-var]
