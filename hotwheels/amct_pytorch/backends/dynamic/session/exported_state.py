"""ExportedState: tells whether a model still has the ranges and weights that its exported factors belong to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ....nn.quantized_layer import QuantizedLayer
from ....torch_private import known_version


class ExportedState:
    """The values of the ranges and weights of some layers at one moment.

    A state that is loaded, or an update of a moving average, changes them without a forward in training mode. Scalars,
    such as the ends of ranges, are compared by value. Weights are compared by their version, which is free, and by
    their sum only if the version differs, as that of a copy does.
    """

    def __init__(self, layers: Iterable[QuantizedLayer]) -> None:
        """Notes the values of the parameters of ``layers``."""
        tensors = _parameters(layers)
        self._sums = [_sum(one) for one in tensors]
        self._versions = [known_version(one) for one in tensors]

    def is_of(self, layers: Iterable[QuantizedLayer]) -> bool:
        """Whether ``layers``, those of the constructor or their copies, have the noted values."""
        tensors = _parameters(layers)
        if len(tensors) != len(self._sums):
            return False
        for index, tensor in enumerate(tensors):
            version = known_version(tensor)
            if tensor.numel() > 1 and version is not None and version == self._versions[index]:
                continue
            if _sum(tensor) != self._sums[index]:
                return False
            self._versions[index] = version
        return True


def _parameters(layers: Iterable[QuantizedLayer]) -> list[Tensor]:
    """Returns the parameters of the quantizers and of the modules that hold the weights."""
    found: list[Tensor] = []
    for layer in layers:
        found += layer.parameters()
        module = None if layer.weighted is None else layer.weighted.op.module
        if isinstance(module, torch.nn.Module):
            found += module.parameters()
    return found


def _sum(tensor: Tensor) -> float:
    return tensor.detach().sum(dtype=torch.float64).item()
