"""The command line reference is the help of the commands; the environment variables of the code have their page."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command_line_page import PAGE, page

ROOT = Path(__file__).parents[2]
FOLDERS = ("hotwheels", "proto", "capacity", "custom_op", "benchmarks", "sample", "tests")


def test_the_page_is_the_help_of_the_commands() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.support.command_line_page"


def test_the_environment_variables_of_the_code_are_on_their_page() -> None:
    code = "".join(path.read_text(encoding="utf-8") for one in FOLDERS for path in (ROOT / one).rglob("*.py"))
    scripts = "".join((ROOT / one).read_text(encoding="utf-8") for one in ("Makefile", ".ci/run"))
    found = set(re.findall(r"[\"'](AMCT_[A-Z_]+)[\"']", code)) | set(re.findall(r"\bAMCT_[A-Z_]+", scripts))
    assert {"AMCT_LOG_LEVEL", "AMCT_NO_KERNELS", "AMCT_CI_COVERAGE"} <= found
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert found == set(re.findall(r"`(AMCT_[A-Z_]+)`", page))
