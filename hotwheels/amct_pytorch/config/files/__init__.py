"""Configuration files as text, tolerant JSON and om.json."""
