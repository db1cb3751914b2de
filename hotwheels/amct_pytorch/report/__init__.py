"""Reports: dumps, pictures of graphs, error analysis, comparisons."""
