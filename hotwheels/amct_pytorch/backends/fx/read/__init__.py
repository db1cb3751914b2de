"""Questions about a traced graph, answered without changing it."""
