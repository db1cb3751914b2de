"""Values of a configuration: types, ranges and spellings."""
