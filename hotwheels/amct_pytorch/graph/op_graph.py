"""OpGraph: the operations of a model in execution order, read-only, the same for both back-ends."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from functools import cached_property

from ..ops.desc import OpDesc


class Form(enum.Enum):
    """How the model spells an operation."""

    INPUT = "input"
    MODULE = "module"
    FUNCTION = "function"
    METHOD = "method"
    CONSTANT = "constant"  # parameter, buffer or attribute
    OUTPUT = "output"


@dataclasses.dataclass(frozen=True)
class Skip:
    """The name of a node or layer that was skipped, and the reason."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FoldedNodes:
    """The nodes that are folded into a layer with a weight, in the order of the data (spec 6.7).

    Attributes:
      front: Names of the nodes in front of the layer.
      behind: Names of the nodes behind the layer.
    """

    front: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Edge:
    """One quantizable tensor input of an operation.

    Attributes:
      producer: Name of the node whose result the edge reads.
      argument: Keyword name of the argument; for list arguments all elements have the list's name.
      position: Position of the argument in the call.
      element: Index inside a list argument, None otherwise.
      is_constant: Whether the tensor is computed from parameters and buffers alone.
    """

    producer: str
    argument: str
    position: int
    element: int | None = None
    is_constant: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpNode:
    """One node of the model, in execution order.

    Attributes:
      name: Layer name: the FX node name, or the module path on the dynamic path.
      form: How the model spells the operation.
      type: The type string of spec 8.3: ``torch.nn.Conv2d``, ``torch.add``, ``operator.add``, ``matmul`` (a method).
      op: The operation's description in the registry; None if the operation is not known.
      inputs: Names of all nodes that the node reads, in call order, tensors or not, without duplicates.
      edges: The quantizable tensor inputs, in call order; empty if the node cannot be quantized.
      unquantizable: Why an operation or an unknown module cannot be quantized; None if it can, and for other nodes.
      module_path: Path of the called module, None for functions and methods.
      weight_name: Name of the weight, the same for all layers with the same weight; empty without a weight, and on the
        dynamic path.
      onnx_type: Type of the exported ONNX node, e.g. ``Conv``; on the FX path the usual type of the operation, empty if
        the operation may be exported as several nodes.
      is_cube: Whether the chip's matrix unit computes the ONNX node, which must then be quantized (spec 13.1, rule 4).
      is_no_command: Whether the chip executes nothing for the ONNX node, so that it takes the grid of its consumer.
      use_of: Layer name for each further use of a layer: on the dynamic path a module that is called several times is
        one layer. Empty for the first use, whose ``name`` is the layer name.
      is_default_enabled: False if generated configurations do not enable the node even if they enable its operation: a
        product with a buffer is quantized only if the user names it.
      has_weight_operand: Whether the weight is the second operand of a product; a configuration may then have a
        separate entry for each of the two operands.
      is_dead: True if no output of the model depends on the operation; the exported files then leave it out.
      is_fold_target: For a BatchNorm: whether it is folded into a layer with a weight (spec 6.7).
      folded: The nodes folded into a layer with a weight.
      part_of: Name of the layer to which an activation or a folded operation belongs; None for all other nodes.
      unfolded_reason: Why a BatchNorm is not folded; None if it is folded, and for all other nodes.
      is_foldable: For a BatchNorm with an ``unfolded_reason``: whether it would be folded exactly if the user allowed
        it, or said more.
      onnx_name: Name that torch's exporter gives the ONNX node, e.g. ``/conv1/Conv``; empty on the FX path.
      is_pick: Whether the node only picks one of several results of ``inputs[0]``; always False on the FX path.
    """

    name: str
    form: Form
    type: str = ""
    op: OpDesc | None = None
    inputs: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()
    unquantizable: str | None = None
    module_path: str | None = None
    weight_name: str = ""
    onnx_type: str = ""
    is_cube: bool = False
    is_no_command: bool = False
    onnx_name: str = ""
    is_pick: bool = False
    use_of: str = ""
    is_fold_target: bool = False
    folded: FoldedNodes = dataclasses.field(default_factory=FoldedNodes)
    part_of: str | None = None
    unfolded_reason: str | None = None
    is_foldable: bool = False
    is_dead: bool = False
    is_default_enabled: bool = True
    has_weight_operand: bool = False

    @property
    def layer(self) -> str:
        """The layer name in configuration and record."""
        return self.use_of or self.name

    @property
    def is_quantizable(self) -> bool:
        """Whether the node can be quantized, so that the configuration may have an entry for its layer."""
        return self.op is not None and self.unquantizable is None and bool(self.edges)

    @property
    def is_on_by_default(self) -> bool:
        """Whether a generated configuration quantizes the layer."""
        return self.op is not None and self.op.is_default_enabled and self.is_default_enabled


@dataclasses.dataclass(frozen=True)
class OpGraph:
    """The nodes of one model by name, in execution order."""

    nodes: Mapping[str, OpNode]

    def __iter__(self) -> Iterator[OpNode]:
        return iter(self.nodes.values())

    def __getitem__(self, name: str) -> OpNode:
        return self.nodes[name]

    @cached_property
    def quantizable(self) -> tuple[OpNode, ...]:
        """The nodes that can be quantized, in order: every use of every layer."""
        return tuple(node for node in self if node.is_quantizable)

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """For each node the names of the nodes that read it, in order."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self:
            for producer in node.inputs:
                found[producer].append(node.name)
        return {name: tuple(readers) for name, readers in found.items()}

    @cached_property
    def uses(self) -> Mapping[str, tuple[OpNode, ...]]:
        """The quantizable nodes of each layer by its name, both in order."""
        found: dict[str, list[OpNode]] = {}
        for node in self.quantizable:
            found.setdefault(node.layer, []).append(node)
        return {layer: tuple(nodes) for layer, nodes in found.items()}

    @cached_property
    def layers(self) -> Mapping[str, OpNode]:
        """The layers that a configuration has entries for, in order: each layer name with its first use."""
        return {layer: nodes[0] for layer, nodes in self.uses.items()}

    @cached_property
    def skips(self) -> tuple[Skip, ...]:
        """The nodes that cannot be quantized, with the reason."""
        return tuple(Skip(node.name, node.unquantizable) for node in self if node.unquantizable)
