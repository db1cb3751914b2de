"""The operation EltwiseDiv."""
