"""The source files of the package."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "hotwheels" / "amct_pytorch"


def sources() -> list[Path]:
    mapped = [path for folder in ("capacity", "custom_op", "proto") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in [*sorted(PACKAGE.rglob("*.py")), *mapped] if not path.name.endswith("_pb2.py")]
