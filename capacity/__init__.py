"""What can be quantized: the capacity table, which users extend by editing ``capacity_config.csv`` (spec 9.6)."""

from .reader import Capacity, read_capacity

__all__ = ["Capacity", "read_capacity"]
