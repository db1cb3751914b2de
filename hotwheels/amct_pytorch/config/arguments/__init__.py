"""Values of a configuration: their types, ranges and spellings."""
