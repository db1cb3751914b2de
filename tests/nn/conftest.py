"""Fixtures of these tests."""

from tests.support.log_lines import log_lines

__all__ = ["log_lines"]
