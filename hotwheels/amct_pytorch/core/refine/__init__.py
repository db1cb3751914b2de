"""Rounding of weights so that a layer's output error is small: tensors and grids in, weights on the grid out."""
