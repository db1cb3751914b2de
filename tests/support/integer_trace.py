"""IntegerTrace: the integers of one real_quant forward, by layer, to compare with the oracle's (spec 10.5)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from torch import Tensor, nn

from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer


@dataclasses.dataclass(frozen=True)
class IntegerTrace:
    """What the layers saw, as integer-valued tensors.

    Attributes:
      edges: By layer and index of the input: its integers, offset included.
      sums: By layer, CUBE operations only: the exact accumulator, after bias and shift.
    """

    edges: dict[str, dict[int, Tensor]] = dataclasses.field(default_factory=dict)
    sums: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def add_edge(self, layer: str, index: int, integers: Tensor) -> None:
        self.edges.setdefault(layer, {})[index] = integers

    def add_sums(self, layer: str, sums: Tensor) -> None:
        self.sums[layer] = sums


@contextlib.contextmanager
def trace_integers(model: nn.Module) -> Iterator[IntegerTrace]:
    """Lets every quantized layer of ``model`` note its integers while the block runs in real_quant state."""
    trace = IntegerTrace()
    layers = [one for one in model.modules() if isinstance(one, QuantizedLayer)]
    for layer in layers:
        layer.watcher = trace
    try:
        yield trace
    finally:
        for layer in layers:
            layer.watcher = None
