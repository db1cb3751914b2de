"""Configuration documents: simple config -> one entry per layer, read, checked and written."""
