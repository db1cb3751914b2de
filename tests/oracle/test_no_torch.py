from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "hotwheels" / "amct_pytorch"
# The package's own __init__ imports torch, so the oracle is loaded beneath an empty one.
LOAD = f"""
import sys, types
package = types.ModuleType("hotwheels.amct_pytorch")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["hotwheels.amct_pytorch"] = package
import hotwheels.amct_pytorch.oracle.digest, hotwheels.amct_pytorch.oracle.interpreter
print(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "scipy", "onnxruntime")))
"""


def test_the_oracle_imports_no_torch() -> None:
    found = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
