"""Writes calls of torch as ONNX nodes while they run: a handler per operation, or torch's exporters for one call."""
