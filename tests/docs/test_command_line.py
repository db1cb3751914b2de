"""The command line reference is the help of the commands, and names the environment variables of the code."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command_line_page import PAGE, page

PACKAGE = Path(__file__).parents[2] / "hotwheels" / "amct_pytorch"


def test_the_page_is_the_help_of_the_commands() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.support.command_line_page"


def test_the_environment_variables_of_the_code_are_on_the_page() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    found = set(re.findall(r'"(AMCT_[A-Z_]+)"', sources)) | set(re.findall(r"environ\S*\W(AMCT_[A-Z_]+)", sources))
    assert {"AMCT_LOG_LEVEL", "AMCT_NO_KERNELS"} <= found
    assert found <= set(re.findall(r"`(AMCT_[A-Z_]+)`", page()))
