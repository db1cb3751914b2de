"""Makes an OpGraph of the user's module through ONNX: candidates, the marked export, the float model."""
