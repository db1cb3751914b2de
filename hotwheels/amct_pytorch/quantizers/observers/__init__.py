"""Observers: what calibration remembers of a tensor, and the grid it chooses."""
