"""Passes that change a traced graph: in-place forms, attention, calls replaced by other nodes."""
