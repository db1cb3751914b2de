"""Refinement after calibration: the methods of one layer, the loop over a model's layers, the dynamic path's files."""
