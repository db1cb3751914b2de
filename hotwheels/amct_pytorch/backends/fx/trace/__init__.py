"""Traces the user's module to a torch.fx graph: the tracers, and the errors if a model cannot be traced."""
