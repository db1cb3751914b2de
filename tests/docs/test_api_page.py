"""Every public name stands on the API page, and every name on the page exists."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import hotwheels.amct_pytorch as amct

NO_ENTRY = {"__version__", "custom_op", "nn"}  # their members have entries


def test_the_page_has_the_public_names() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: hotwheels\.amct_pytorch\.(\S+)$", page, re.MULTILINE)
    assert len(names) == len(set(names))
    assert {name for name in names if not name.startswith("nn.")} == set(amct.__all__) - NO_ENTRY
    assert all(attrgetter(name)(amct) for name in names)
