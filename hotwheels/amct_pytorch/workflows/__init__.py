"""The implementation of the public functions, step by step; `api` checks arguments and calls it."""
