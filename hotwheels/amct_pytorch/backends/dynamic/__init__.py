"""The dynamic back-end: names layers by module paths and reads the graph from ONNX."""
