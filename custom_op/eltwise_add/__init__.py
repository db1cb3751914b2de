"""The operation EltwiseAdd."""
