"""The operation Min."""
