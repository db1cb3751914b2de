"""real_quant of everything between the quantized layers; the same rules for both back-ends."""
