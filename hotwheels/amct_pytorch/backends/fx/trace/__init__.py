"""From the user's module to a torch.fx graph: the tracer, and what it says where it cannot follow."""
