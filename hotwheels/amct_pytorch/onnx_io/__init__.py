"""ONNX files: markers, node names, atomic reading and writing."""
