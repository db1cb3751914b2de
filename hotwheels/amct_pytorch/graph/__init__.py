"""The neutral, read-only view of a model which config and plan work on."""

from .op_graph import Edge, FoldedNodes, Form, OpGraph, OpNode, Skip

__all__ = ["Edge", "FoldedNodes", "Form", "OpGraph", "OpNode", "Skip"]
