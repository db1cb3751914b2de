"""What calibration remembers of a tensor over all batches, in constant memory."""
