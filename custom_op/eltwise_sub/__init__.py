"""The operation EltwiseSub."""
