"""The modules that ``import hotwheels.amct_pytorch`` loads in addition to torch, and those of the first calls.

The tests count modules instead of seconds, because the count does not depend on other load of the machine.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hotwheels.amct_pytorch as amct

MOST_OF_OTHERS = (
    70  # today 51 once all names are used, protobuf and yaml among them; torch.onnx alone brings 26, onnx 29
)
MOST_AT_IMPORT = 60  # today 43, all of them ours
HEAVY = ("onnx", "onnx_ir", "onnxruntime", "sympy", "torch.onnx", "click")


def added(statement: str, folder: Path) -> list[str]:
    """Returns the modules that ``statement`` loads after torch, in a new process."""
    script = (
        "import json, sys, torch\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder)
    found: list[str] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def for_all_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is loaded once every public name was used."""
    found = added("from hotwheels.amct_pytorch import *", tmp_path_factory.mktemp("names"))
    assert "hotwheels.amct_pytorch.api.fx" in found, "or else there is nothing to count"
    return found


def test_import_loads_what_has_to_be_registered_only(tmp_path: Path) -> None:
    found = added("import hotwheels.amct_pytorch", tmp_path)
    assert len(found) <= MOST_AT_IMPORT
    assert [name for name in found if not name.startswith("hotwheels")] == []
    assert "hotwheels.amct_pytorch.custom_op.max.max" in found and "hotwheels.amct_pytorch.nn.pico_ops" in found


@pytest.mark.parametrize("library", HEAVY)
def test_names_leave_out_what_only_some_calls_need(for_all_names: list[str], library: str) -> None:
    loaded = [name for name in for_all_names if name == library or name.startswith(f"{library}.")]
    assert not loaded


def test_names_need_few_modules_of_others(for_all_names: list[str]) -> None:
    others = [name for name in for_all_names if not name.startswith(("hotwheels", "picovision"))]
    assert len(others) <= MOST_OF_OTHERS, others


def test_public_names_are_found_where_type_checkers_see_them() -> None:
    tree = ast.parse(Path(amct.__file__).read_text(encoding="utf-8"))
    (block,) = (one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING")
    seen = {alias.name: f".{one.module}" for one in block.body for alias in one.names}
    assert seen == amct._PLACE_OF
    assert seen.keys() <= set(amct.__all__) <= set(dir(amct))
    assert all(getattr(amct, name) is not None for name in amct.__all__)


def test_other_names_are_submodules_or_errors() -> None:
    assert amct.quantizers.UlqFakeQuantize is amct.UlqFakeQuantize
    with pytest.raises(AttributeError, match="has no attribute 'create_config'"):
        amct.create_config  # noqa: B018 - the access is the test
    assert not hasattr(amct, "__path_of_nothing__")
