"""Checks of the constructor arguments which several modules share."""

from __future__ import annotations

from ...errors import ConfigError


def check_block_size(block_size: int, owner: str) -> int:
    """Returns ``block_size`` if it is a positive int, else raises ConfigError naming the class ``owner``."""
    if not isinstance(block_size, int) or isinstance(block_size, bool) or block_size < 1:
        raise ConfigError(f"block_size of {owner} must be a positive int, got {block_size!r}.")
    return block_size
