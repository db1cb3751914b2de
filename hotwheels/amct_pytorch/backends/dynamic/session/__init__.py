"""What a quantized model of the dynamic path does over its forwards: calibration, training, shift bits, record."""
