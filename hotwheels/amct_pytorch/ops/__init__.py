"""The registry: finds the description of an operation by its type. One OpDesc per operation."""
