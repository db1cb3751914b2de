"""Traces that follow an example: every traced value carries what it is on the example."""
