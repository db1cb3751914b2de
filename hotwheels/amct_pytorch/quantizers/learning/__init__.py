"""Gradients of fake quantization, and the memory that training keeps for them."""
