"""From one float ONNX model and one Record to the files: fake-quant model, deploy pair."""
