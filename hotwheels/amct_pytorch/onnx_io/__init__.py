"""ONNX files: layer sites, node names, checked reading and writing."""
