"""Writes a flat float graph as ONNX: the walk, the table of handlers, names and layer sites by construction."""
