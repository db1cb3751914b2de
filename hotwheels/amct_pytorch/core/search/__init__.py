"""Searches for grids, codebooks and shifts: tensors or statistics in, parameters out."""
