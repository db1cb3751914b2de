"""From a quantized graph to what leaves it: the flat float graph, ONNX, Python source."""
