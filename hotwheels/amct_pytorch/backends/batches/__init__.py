"""The inputs and outputs of a model: examples, kept batches, names in the files."""
