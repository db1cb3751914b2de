"""The capacity table lists what can be quantized; users extend it by editing ``capacity_config.csv`` (spec 9.6)."""

from .reader import ROWS, Capacity, read_capacity

__all__ = ["ROWS", "Capacity", "read_capacity"]
