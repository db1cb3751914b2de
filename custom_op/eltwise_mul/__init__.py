"""The operation EltwiseMul."""
