"""Facts about single calls of torch functions, and functions that are written as others; both paths use them."""
