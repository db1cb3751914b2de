"""Documents of the dynamic path: the .cfg files and both kinds of config.json."""
