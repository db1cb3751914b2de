"""Fixtures of the tests of operations."""

from tests.support.log_lines import log_lines

__all__ = ["log_lines"]
