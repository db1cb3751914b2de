"""The settings of one layer, their defaults, and the rules of a layer's kind."""
