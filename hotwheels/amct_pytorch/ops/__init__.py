"""The registry: what an operation is, asked by its type. One OpDesc per operation."""
