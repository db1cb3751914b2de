"""The operation Max."""
