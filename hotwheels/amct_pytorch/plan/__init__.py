"""Which layer is quantized how: pure data made from OpGraph and QuantConfig."""
