"""Rounding of weights by what a layer puts out: tensors and grids in, weights on the grid out."""
