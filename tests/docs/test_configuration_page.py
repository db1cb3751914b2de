"""The configuration reference is made from the tables that the package checks values with."""

from __future__ import annotations

from tests.support.configuration_page import PAGE, page


def test_the_page_has_the_tables_of_the_package() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.support.configuration_page"
