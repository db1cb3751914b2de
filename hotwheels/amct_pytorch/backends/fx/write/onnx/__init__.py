"""Writes a flat float graph as ONNX: runs it, calls a handler per operation, and names nodes and layer sites."""
