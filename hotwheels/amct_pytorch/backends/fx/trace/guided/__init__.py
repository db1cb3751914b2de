"""Traces with an example: every traced value also has its value on the example."""
