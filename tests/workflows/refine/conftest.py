"""Fixtures of the tests of refinement."""

from __future__ import annotations

from tests.support.log_lines import log_lines

__all__ = ["log_lines"]
