"""The public functions, one module per family: the only place that knows models, mathematics and files."""
