"""The read-only view of a model, the same for both back-ends, that config and plan work on."""

from .op_graph import Edge, FoldedNodes, Form, OpGraph, OpNode, Skip

__all__ = ["Edge", "FoldedNodes", "Form", "OpGraph", "OpNode", "Skip"]
