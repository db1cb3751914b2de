"""LayerStep: one weighted layer of a quantized network, with the layer's inputs on every batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ...nn.layer_weight import LayerWeight
from ...nn.quantized_layer import QuantizedLayer

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class LayerStep:
    """A layer whose preceding layers are all refined.

    Attributes:
      layer: The layer of the quantized network.
      reference: The same layer of the float network.
      calls: Yields, for each batch, the arguments of the layer's call in the float and in the quantized network.
      obstacle: Why the layer cannot be refined with these batches; None if it can.
      activation: The elementwise activation that alone reads the layer's output; None if there is none, or if the path
        does not know it.
    """

    layer: QuantizedLayer
    reference: QuantizedLayer
    calls: Callable[[], Iterator[tuple[Call, Call]]]
    obstacle: str | None = None
    activation: Callable[[Tensor], Tensor] | None = None

    @property
    def weight(self) -> LayerWeight:
        """The weight of the layer in the quantized network."""
        weight = self.layer.weighted
        assert weight is not None, "a LayerStep has a weighted layer"
        return weight

    @property
    def reference_weight(self) -> LayerWeight:
        """The weight of the layer in the float network."""
        weight = self.reference.weighted
        assert weight is not None, "a LayerStep has a weighted layer"
        return weight

    def inputs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, for each batch, the input in the float network, and the quantized network's input on its grid."""
        for (args, kwargs), (quantized_args, quantized_kwargs) in self.calls():
            exact = self.reference.call.inputs(args, kwargs)[0]
            rounded = self.layer.call.inputs(quantized_args, quantized_kwargs)[0]
            yield exact, self.layer.activation[0].fake_quantize(rounded)

    def outputs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, for each batch, the layer's output in the float network and in the present quantized network."""
        for (args, kwargs), (quantized_args, quantized_kwargs) in self.calls():
            yield self.reference(*args, **kwargs), self.layer(*quantized_args, **quantized_kwargs)
