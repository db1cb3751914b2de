"""The two ways to put quantized layers into a model: fx (static graph) and dynamic (eager modules)."""
