"""Sessions of quantized models on the dynamic path: calibration, training, shift bits and record over many forwards."""
