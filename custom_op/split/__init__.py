"""The operation Split."""
