"""The operation MatMul."""
