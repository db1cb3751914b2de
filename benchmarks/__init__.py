"""Measures time, memory and accuracy of quantization, compared with a float run and with onnxruntime; see docs/."""
