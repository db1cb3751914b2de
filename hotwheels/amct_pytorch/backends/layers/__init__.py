"""Quantized layers as both paths make, hold, calibrate and refine them."""
