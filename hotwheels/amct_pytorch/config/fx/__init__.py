"""Documents of the FX path: the simple yaml and config.json."""
