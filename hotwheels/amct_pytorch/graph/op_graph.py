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
    """Something that was not done, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FoldedNodes:
    """The nodes that a layer with a weight takes up, in the order of the data (spec 6.7).

    Attributes:
      front: Names of those in front of it.
      behind: Names of those behind it.
    """

    front: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Edge:
    """One quantizable tensor input of an operation.

    Attributes:
      producer: Name of the node whose result it reads.
      argument: Keyword name of the argument; for list arguments all elements have the list's name.
      position: Position of the argument in the call.
      element: Index inside a list argument, None otherwise.
      is_constant: Whether what it reads is computed from parameters and buffers alone.
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
      form: How it is spelled.
      type: The type string of spec 8.3: ``torch.nn.Conv2d``, ``torch.add``, ``operator.add``, ``matmul`` (a method).
      op: What the registry knows of it; None if it is not a known operation.
      inputs: Names of all nodes it reads, in call order, tensors or not, without duplicates.
      edges: Its quantizable tensor inputs, in call order; empty if it cannot be quantized.
      unquantizable: Why it is not quantizable, of operations and of modules which nothing is known of; None if it is.
      module_path: Path of the module it calls, None for functions and methods.
      weight_name: Name of its weight, the same for all layers that compute with one weight; empty without a weight, and
        on the dynamic path.
      has_bias: Whether the called module has a bias.
      onnx_type: Type of the ONNX node it becomes, e.g. ``Conv``; on the FX path the usual one of its operation, empty
        where that is not always one node.
      is_cube: Whether the chip's matrix unit computes that node, so that it must be quantized (rule 4 of spec 13.1).
      is_no_command: Whether the chip executes nothing for that node, so that it takes the grid of what reads it.
      use_of: Name of the layer of which it is a further use: on the dynamic path a module that is called several times
        is one layer. Empty for the node that has the layer's name.
      is_default_enabled: Whether a generated configuration switches it on, if it does so with the operation at all. A
        product with a buffer must be named to be quantized.
      has_weight_operand: Whether its weight is the second operand of a product, which documents may give an entry of
        its own beside that of the first.
      is_dead: True if no output of the model depends on the operation; it is then left out of the files.
      is_fold_target: For a BatchNorm: whether it can be folded into the convolution ``inputs[0]`` (spec 6.7).
      folded: On the FX path: what a layer with a weight takes up.
      part_of: On the FX path: name of the layer that it belongs to, as an activation or a folded operation; None for
        all other nodes.
      unfolded_reason: Why a BatchNorm is not folded; None if it is, and for all other nodes.
      onnx_name: Name which torch's exporter gives that node, e.g. ``/conv1/Conv``; empty on the FX path.
      is_pick: Whether it only picks one of several results of ``inputs[0]``; the FX path does not say so.
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
    has_bias: bool = False
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
    is_dead: bool = False
    is_default_enabled: bool = True
    has_weight_operand: bool = False

    @property
    def layer(self) -> str:
        """The name under which configuration and record know it."""
        return self.use_of or self.name

    @property
    def is_quantizable(self) -> bool:
        """Whether the configuration may have an entry for its layer."""
        return self.op is not None and self.unquantizable is None and bool(self.edges)


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
        """What a configuration has entries for, in order: each layer with its first use."""
        return {layer: nodes[0] for layer, nodes in self.uses.items()}

    @cached_property
    def skips(self) -> tuple[Skip, ...]:
        """What is not quantizable, with the reason."""
        return tuple(Skip(node.name, node.unquantizable) for node in self if node.unquantizable)
