"""real_quant of all operations between the quantized layers; the same rules for both back-ends."""
