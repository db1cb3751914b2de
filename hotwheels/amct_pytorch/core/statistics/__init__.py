"""Statistics of a tensor over all batches of calibration, in constant memory."""
