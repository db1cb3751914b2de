"""Makes the exported files, fake_quant model and deploy pair, from a float ONNX model and a Record."""
