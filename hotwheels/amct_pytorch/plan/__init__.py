"""Plans and advice: which layer is quantized how, as pure data made from OpGraph and QuantConfig."""
