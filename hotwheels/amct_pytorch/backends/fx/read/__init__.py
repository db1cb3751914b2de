"""Analyses of a traced graph, which do not change it."""
