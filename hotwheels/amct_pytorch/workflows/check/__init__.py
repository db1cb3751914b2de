"""Checks of a model: check_model and its report, integer multiplications, advice, the float graph against the model."""
