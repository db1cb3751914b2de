"""What is configured for one layer, and what a layer's kind demands of it."""
