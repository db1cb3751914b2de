"""What to say of a name in a document which is not that of a quantizable layer."""

from __future__ import annotations

from ...errors import nearest_names
from ...graph import OpGraph


def why_unmatched(name: str, graph: OpGraph) -> str | None:
    """Returns the end of a sentence that begins with ``Layer 'x'``, None if ``name`` is a quantizable layer."""
    if name in graph.layers:
        return None
    if name not in graph.nodes:
        return f"is not in the model. {nearest_names(name, list(graph.layers))}"
    reason = graph[name].unquantizable or "its operation is not in the list of quantizable ones"
    return f"cannot be quantized: {reason}."
