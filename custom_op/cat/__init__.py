"""The operation Cat."""
