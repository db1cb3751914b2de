"""The modules that ``import hotwheels.amct_pytorch`` loads in addition to torch.

The tests count modules instead of seconds, because the count does not depend on other load of the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MOST_OF_OTHERS = 70  # today 51, protobuf and yaml among them; torch.onnx alone brings 26, onnx 29, sympy 419
HEAVY = ("onnx", "onnx_ir", "onnxruntime", "sympy", "torch.onnx", "click")


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The modules that the package adds to those of torch."""
    script = (
        "import json, sys, torch\n"
        "before = set(sys.modules)\n"
        "import hotwheels.amct_pytorch\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    folder = tmp_path_factory.mktemp("import")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder)
    found: list[str] = json.loads(ran.stdout)
    assert "hotwheels.amct_pytorch.api.fx" in found, "or else there is nothing to count"
    return found


@pytest.mark.parametrize("library", HEAVY)
def test_import_leaves_out_what_only_some_calls_need(added: list[str], library: str) -> None:
    loaded = [name for name in added if name == library or name.startswith(f"{library}.")]
    assert not loaded


def test_import_adds_few_modules_of_others(added: list[str]) -> None:
    others = [name for name in added if not name.startswith(("hotwheels", "picovision"))]
    assert len(others) <= MOST_OF_OTHERS, others
