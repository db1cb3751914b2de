"""Tensors in, tensors out: the arithmetic of quantization. Knows no model, node or file."""
