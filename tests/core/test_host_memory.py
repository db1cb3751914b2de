"""Python's collector is paused in a block, and on again behind it, after an error too."""

from __future__ import annotations

import gc

import pytest

from hotwheels.amct_pytorch.core.host_memory import without_collection


def test_collector_is_paused_in_the_block_only() -> None:
    with pytest.raises(ValueError, match="inside"), without_collection():
        assert not gc.isenabled()
        with without_collection():
            pass
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled()
