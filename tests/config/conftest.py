"""Fixtures of the configuration tests."""

from __future__ import annotations

import pytest

from hotwheels.amct_pytorch.capacity import Capacity, read_capacity
from tests.support.log_lines import log_lines

__all__ = ["log_lines"]


@pytest.fixture(scope="session")
def capacity() -> Capacity:
    """The installed capacity table."""
    return read_capacity()
