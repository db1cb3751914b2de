"""All code that is needed only for torch's TorchScript exporter: markers, symbolics, the clean-up after it."""
