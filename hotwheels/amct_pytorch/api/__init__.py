"""The public functions, one module per family: they check their arguments and call `workflows`."""
