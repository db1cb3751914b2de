"""The base classes of torch's own quantization: imported here only, since newer torch releases move them."""

from __future__ import annotations

from torch.ao.quantization import FakeQuantizeBase, ObserverBase

__all__ = ["FakeQuantizeBase", "ObserverBase"]
