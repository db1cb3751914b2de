"""Fixtures of the tests that compare real_quant with the oracle."""

from __future__ import annotations

from tests.support.fixtures import one_thread, seeded

__all__ = ["one_thread", "seeded"]
