"""Everything that dies with torch's TorchScript exporter: markers, symbolics, the clean-up behind it."""
