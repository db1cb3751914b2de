"""Writes a quantized graph in other forms: the flat float graph, ONNX, Python source."""
