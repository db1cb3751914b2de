"""A Proxy whose device can be read while tracing: the device of the model."""

from __future__ import annotations

from typing import Any

from torch.fx import Proxy, Tracer
from torch.fx.proxy import Attribute

from .proxies import TracedProxy


class DeviceProxy(TracedProxy):
    """Makes branches on ``x.is_cuda`` and ``x.device.type`` static, and ``torch.autocast(x.device.type)`` possible.

    ``x.device`` itself stays in the graph, so that tensors made on the device of an input follow the input.
    """

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the tensor."""
        if name == "is_cuda":
            return _device_of(self) == "cuda"
        if name == "device":
            return _Device(self, name)
        return super().__getattr__(name)


class _Device(Attribute):
    """``x.device``: a node of the graph once it is used as a value."""

    @property
    def type(self) -> str:
        return _device_of(self)


def _device_of(proxy: Proxy) -> str:
    """Returns the type of the device of the model that is being traced."""
    assert isinstance(proxy.tracer, Tracer)
    first = next(proxy.tracer.root.parameters(), None)
    return "cpu" if first is None else first.device.type
