"""What the public functions do, step by step; `api` has only their doors."""
