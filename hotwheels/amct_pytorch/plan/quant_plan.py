"""QuantPlan: everything a back-end needs to know to place the quantized layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

from ..config.layers.quant_config import QuantizerConfig
from ..graph import Edge, FoldedNodes, Skip
from ..ops.desc import OpDesc


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputPlan:
    """One quantized input.

    Attributes:
      index: Position among the layer's quantizable inputs; the ``index`` of the record.
      edge: The edge in the layer's first use.
      tensors: The producers of the tensors that this input reads, one for each use of the layer.
      quantizer: Algorithm and arguments.
      group: Inputs of equal group read one tensor with equal settings, or belong to one layer with several uses;
        ``layer:index`` of the first of them.
      grid: Inputs of equal grid share one quantizer object (spec 8.6), which observes the inputs of the group with that
        name.
    """

    index: int
    edge: Edge
    tensors: tuple[str, ...]
    quantizer: QuantizerConfig
    group: str
    grid: str

    @property
    def is_observed(self) -> bool:
        """Whether the tensor determines the grid; if not, the tensor behind the layer does."""
        return self.grid == self.group


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer to be quantized.

    Attributes:
      name: Layer name.
      uses: Names of the nodes that are this layer, in order.
      op: The operation's description in the registry.
      inputs: The quantized inputs.
      weight: Algorithm of the weight, None without weights.
      weight_group: Layers of equal group share one weight quantizer: the name of the first call site of the module.
      folded: The nodes that are folded into the layer.
    """

    name: str
    uses: tuple[str, ...]
    op: OpDesc
    inputs: tuple[InputPlan, ...]
    weight: QuantizerConfig | None = None
    weight_group: str = ""
    folded: FoldedNodes = dataclasses.field(default_factory=FoldedNodes)


@dataclasses.dataclass(frozen=True)
class QuantPlan:
    """The layers to quantize by name, in graph order, and the nodes left in float with the reason."""

    layers: Mapping[str, LayerPlan]
    skips: tuple[Skip, ...] = ()

    @cached_property
    def following(self) -> frozenset[str]:
        """The groups whose grid another group determines."""
        return frozenset(one.group for layer in self.layers.values() for one in layer.inputs if not one.is_observed)
