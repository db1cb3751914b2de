"""Fixtures of the tests of the public functions."""

from __future__ import annotations

from tests.support.fixtures import one_thread, seeded
from tests.support.log_lines import log_lines

__all__ = ["log_lines", "one_thread", "seeded"]
