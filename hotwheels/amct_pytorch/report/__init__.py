"""What people look at: dumps, pictures of graphs, error analysis."""
