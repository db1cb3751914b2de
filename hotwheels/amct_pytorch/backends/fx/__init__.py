"""The FX back-end: traces the model and replaces nodes of its graph by quantized layers."""
