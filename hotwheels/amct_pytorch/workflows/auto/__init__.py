"""auto_quantize: finds widths, layer by layer, by their noise at the output and their cost on the chip."""
