"""The operation Eltwise."""
