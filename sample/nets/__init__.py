"""Small networks that only the accuracy benchmarks use."""
