"""From the user's module to an OpGraph through ONNX: candidates, the marked export, the float model."""
