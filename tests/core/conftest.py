"""Fixtures of the core tests."""

from tests.support.log_lines import log_lines

__all__ = ["log_lines"]
