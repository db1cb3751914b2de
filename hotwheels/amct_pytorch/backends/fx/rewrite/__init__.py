"""Passes which change a traced graph: in-place forms, attention, calls written into the graph."""
