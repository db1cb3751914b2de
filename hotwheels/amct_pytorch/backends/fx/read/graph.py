"""Reads an OpGraph from a traced model, without running the model."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....custom_op.base import CustomModuleBase
from ....graph import Edge, FoldedNodes, Form, OpGraph, OpNode
from ....nn.weighted_call import LinearCall
from ....ops.desc import OpDesc, Role
from ....ops.registry import Registry
from ....ops.table import ADAPTIVE, KEEPDIM_ONLY, TUPLE_RESULTS
from ...calls.item_assignment import with_item
from ...calls.mask_values import MASKED
from ...calls.no_ops import NO_OP_MODULES
from ...layers.folding import Folds, unfolded_fields
from ...layers.layer_factory import NOT_LISTED
from ...real_quant.float_products import is_float_product
from ...real_quant.known import is_known
from .constants import constant_nodes
from .float_reason import float_reason
from .folding import find_folds
from .liveness import live_nodes
from .masked import masked_nodes
from .no_op_nodes import hands_on
from .operands import Given, given_operands
from .spelling import find_op, in_place_reason, spelling_of, type_string
from .uneven_windows import uneven_windows
from .values import Value, classify
from .weight_names import weight_name

_CONVOLUTIONS = frozenset({Role.CONV, Role.CONV_TRANSPOSE})

_WITHOUT_ARITHMETIC = (*NO_OP_MODULES, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.ChannelShuffle)

_DATA_WEIGHT = "its weight is computed from the data, so it is no weight that a file could hold"
_UNKNOWN_LIST = "the number of its inputs is not known before the model runs"
_CONSTANT_OPERAND = "its operands are constants, or one of them is not a float tensor"
_EMPTY_OPERAND = "one of its operands has no elements for input_data"
_NO_KEEPDIM = "only the form of two tensors and the one with keepdim=True are supported"
_DEAD = "nothing that the model returns depends on it"
_NO_PARTNER = "neither its producer nor a consumer is quantizable, and it only changes the shape"


def build_graph(graph_module: GraphModule, registry: Registry, folds: Folds[Node] | None = None) -> OpGraph:
    """Returns the operations of ``graph_module`` in execution order; ``folds`` are those of `find_folds`, if known.

    Works on a fresh trace and on a functionalized trace. Names and type strings are equal in both, but only the
    functionalized trace has the right producers behind in-place operations.
    """
    return _Reader(graph_module, registry, folds or find_folds(graph_module, registry)).read()


class _Reader:
    """The state while one graph is read, front to back."""

    def __init__(self, graph_module: GraphModule, registry: Registry, folds: Folds[Node]) -> None:
        self._module = graph_module
        self._registry = registry
        self._values = classify(graph_module.graph, registry)
        self._folds = folds
        self._folded = self._folds.owners()
        self._behind = {one for fold in self._folds.by_weight.values() for one, _ in fold.behind}
        self._live = live_nodes(graph_module)
        self._constants = constant_nodes(graph_module.graph)
        self._masked = masked_nodes(graph_module, registry)
        self._nodes: dict[Node, OpNode] = {}
        self._fused: dict[Node, Node] = {}  # BatchNorms and activations that belong to a convolution

    def read(self) -> OpGraph:
        for node in self._module.graph.nodes:
            self._nodes[node] = self._op_node(node)
        # Last, because this step needs the consumers.
        shapes = {node: self._with_partner(node) for node in self._nodes}
        return OpGraph({node.name: shapes[node] for node in shapes})

    def _op_node(self, node: Node) -> OpNode:
        module = self._module.get_submodule(str(node.target)) if node.op == "call_module" else None
        cls = type(module) if module is not None else None
        spelling = spelling_of(node)
        op = find_op(node, cls, self._registry)
        edges, reason = self._edges(node, op, module) if op else ((), self._reason(node, module))
        is_one_node = op is not None and uneven_windows(node, op, module) is None
        onnx_type = _onnx_type(node, op, module) if op is not None and is_one_node else ""
        return OpNode(
            name=node.name,
            form=spelling.form,
            type=type_string(spelling, cls, self._registry),
            op=op,
            inputs=tuple(one.name for one in node.all_input_nodes),
            edges=() if reason else edges,
            unquantizable=reason,
            module_path=str(spelling.target) if spelling.form is Form.MODULE else None,
            weight_name=weight_name(node, module) if op is not None and op.has_weight else "",
            onnx_type=onnx_type,
            is_cube=self._registry.is_cube(onnx_type),
            is_no_command=self._registry.is_no_command(onnx_type),
            is_fold_target=node in self._folded and op is not None and op.role is Role.BATCH_NORM,
            folded=self._folded_names(node),
            part_of=self._fused[node].name if node in self._fused else None,
            **unfolded_fields(self._folds, node),
            is_dead=node not in self._live,
            is_default_enabled=not self._reads_buffer(node, op),
            has_weight_operand=isinstance(module, LinearCall) and module.is_product,
        )

    def _reason(self, node: Node, module: nn.Module | None) -> str | None:
        """Returns why an operation that is not in the registry is no layer; None if that needs no reason."""
        return self._belongs_to(node, None) or _float_reason(node, module)

    def _edges(self, node: Node, op: OpDesc, module: nn.Module | None) -> tuple[tuple[Edge, ...], str | None]:
        """Returns (quantizable inputs, None), or ((), reason) if there are none."""
        given = given_operands(node, op, module)
        tensors = [one for one in given if one.node is not None and self._is_quantized_operand(one.node, op)]
        reason = (
            ((float_reason(node) or _DEAD) if node not in self._live else None)
            or in_place_reason(node)
            or _no_weight(node, op, module)
            or self._belongs_to(node, op)
            or (None if op.is_listed else NOT_LISTED)
            or uneven_windows(node, op, module)
            or (MASKED if any(one.node in self._masked for one in tensors) else None)
            or self._wrong_operands(node, op, given, tensors)
        )
        return tuple(self._edge(one) for one in tensors), reason

    def _edge(self, given: Given) -> Edge:
        """Returns the edge of the layer after the nodes in front of it are folded into it."""
        producer = given.node
        while producer in self._folded and producer not in self._behind:
            producer = self._folds.data[producer]
        assert producer is not None
        return dataclasses.replace(given.edge, producer=producer.name, is_constant=given.node in self._constants)

    def _is_quantized_operand(self, operand: Node, op: OpDesc) -> bool:
        """Whether ``operand`` is a float tensor that depends on the data; an operand of a product may be a constant."""
        if self._values[operand] is Value.TENSOR:
            return True
        return op.role is Role.MATMUL and self._is_table(operand)

    def _is_table(self, operand: Node) -> bool:
        """Whether ``operand`` is computed from parameters, buffers and sizes alone."""
        return operand in self._constants or self._values[operand] is Value.CONSTANT

    def _reads_buffer(self, node: Node, op: OpDesc | None) -> bool:
        """Whether ``node`` is a product with a constant that is computed without parameters."""
        if op is None or op.role is not Role.MATMUL:
            return False
        constants = [one for one in node.all_input_nodes if self._is_table(one)]
        return bool(constants) and not any(self._has_parameter(one) for one in constants)

    def _has_parameter(self, constant: Node) -> bool:
        if constant.op != "get_attr":
            return any(self._has_parameter(one) for one in constant.all_input_nodes if self._is_table(one))
        path, _, name = str(constant.target).rpartition(".")
        return name in self._module.get_submodule(path)._parameters

    def _belongs_to(self, node: Node, op: OpDesc | None) -> str | None:
        conv = self._folded.get(node)
        if conv is None and op is not None and op.role is Role.FUSED_ACTIVATION:
            conv = self._convolution_before(node)
        if conv is None:
            return None
        self._fused[node] = conv
        kind = "convolution" if self._is_convolution(conv) else "layer"
        place = "behind" if node in self._folded and node not in self._behind else "in front of"
        return f"it belongs to the {kind} '{conv.name}' {place} it"

    def _is_convolution(self, node: Node) -> bool:
        module = self._module.get_submodule(str(node.target)) if node.op == "call_module" else None
        op = find_op(node, None if module is None else type(module), self._registry)
        return op is not None and op.role in _CONVOLUTIONS

    def _convolution_before(self, node: Node) -> Node | None:
        producer = node.all_input_nodes[0] if node.all_input_nodes else None
        while producer is not None:
            if producer in self._behind:
                producer = self._folded[producer]
            elif hands_on(self._module, producer):
                producer = producer.all_input_nodes[0]
            else:
                return producer if self._is_convolution(producer) else None
        return None

    def _folded_names(self, node: Node) -> FoldedNodes:
        fold = self._folds.by_weight.get(node)
        if fold is None:
            return FoldedNodes()
        return FoldedNodes(*(tuple(one.name for one, _ in chain) for chain in (fold.front, fold.behind)))

    def _wrong_operands(self, node: Node, op: OpDesc, given: list[Given], tensors: list[Given]) -> str | None:
        if any(one.is_unknown_list for one in given):
            return _UNKNOWN_LIST
        if not tensors:
            return self._no_tensor(given)
        if any(_is_empty(one.node) for one in tensors if one.node is not None):
            return _EMPTY_OPERAND
        if op.role is Role.MATMUL and (len(tensors) < len(op.operands) or all(map(self._is_table, _nodes(tensors)))):
            return _CONSTANT_OPERAND
        if op.name in KEEPDIM_ONLY and len(tensors) < 2 and not _keeps_dim(node):
            return _NO_KEEPDIM
        return None

    def _no_tensor(self, given: list[Given]) -> str:
        kinds = {self._values[one.node].value for one in given if one.node is not None}
        return f"it has no float tensor input ({', '.join(sorted(kinds)) or 'Python values only'})"

    def _with_partner(self, node: Node) -> OpNode:
        """Returns the OpNode; unquantizable if it only changes the shape and has no quantizable neighbour (8.3)."""
        found = self._nodes[node]
        if not _is_shape(found) or not found.is_quantizable:
            return found
        if self._has_quantizable_producer(node) or self._has_quantizable_consumer(node):
            return found
        return dataclasses.replace(found, edges=(), unquantizable=_NO_PARTNER)

    def _has_quantizable_producer(self, node: Node) -> bool:
        while _is_shape(self._nodes[node]):
            if not node.all_input_nodes:
                return False
            node = self._origin(node.all_input_nodes[0])
        return self._nodes[node].is_quantizable

    def _origin(self, node: Node) -> Node:
        """Returns the producer behind folded and fused nodes and picks of a tuple's element."""
        if node in self._fused:
            return self._fused[node]
        if node.op == "call_function" and node.all_input_nodes and _picks(node):
            op = self._nodes[node.all_input_nodes[0]].op
            if op is not None and op.name in TUPLE_RESULTS:
                return node.all_input_nodes[0]
        return node

    def _has_quantizable_consumer(self, node: Node) -> bool:
        return any(
            self._has_quantizable_consumer(user) if _is_shape(found) else found.is_quantizable
            for user, found in self._readers(node)
        )

    def _readers(self, node: Node) -> Iterator[tuple[Node, OpNode]]:
        """Yields the consumers that read the result at a quantizable edge."""
        for user in node.users:
            found = self._nodes[user]
            if any(edge.producer == node.name for edge in found.edges):
                yield user, found


def _float_reason(node: Node, module: nn.Module | None) -> str | None:
    """Returns why a call that is not in the registry runs in float; None if that needs no reason."""
    if float_reason(node) is not None:
        return float_reason(node)
    if isinstance(module, CustomModuleBase):
        name = type(module).__name__
        return (
            f"{name} is not registered as quantizable in this process: call amct.register_custom_op({name},"
            " quantize=True) before the configuration and the model are made"
        )
    if module is not None and not isinstance(module, _WITHOUT_ARITHMETIC):
        return f"{type(module).__name__} is not an operation that can be quantized; it runs in float as a whole"
    if node.op == "call_function" and node.target is F.layer_norm:
        return "it is a normalization called as a function; HiSilicon's AMCT manual lists nn.LayerNorm only"
    function: Any = node.target
    if node.op == "call_function" and is_float_product(function, None):
        return f"{function.__name__} is not an operation that can be quantized; it runs in float"
    if node.target is with_item:
        return "it assigns to an index; it runs in float"
    if node.op == "call_function" and not is_known(node.target):
        return "it is a function that is not traced (torch.fx.wrap); it runs in float"
    return None


def _no_weight(node: Node, op: OpDesc, module: nn.Module | None) -> str | None:
    """Returns why a weighted function is no layer: the reason of a pass, else that its weight depends on the data."""
    if op.has_weight and module is None:
        return float_reason(node) or _DATA_WEIGHT
    return float_reason(node)


def _onnx_type(node: Node, op: OpDesc, module: nn.Module | None) -> str:
    """Returns the usual type of the exported ONNX node; empty if the operation may be exported as several nodes."""
    if isinstance(module, LinearCall) and module.is_product:
        return "MatMul"
    usual = op.onnx_types[0] if op.onnx_types else ""
    if op.name not in ADAPTIVE:
        return usual
    size = _argument(node, "output_size", 1) if module is None else module.output_size
    is_global = all(one == 1 for one in (size if isinstance(size, (tuple, list)) else (size,)))
    return f"Global{usual}" if is_global else usual


def _is_shape(node: OpNode) -> bool:
    return node.op is not None and node.op.role is Role.SHAPE


def _is_empty(node: Node) -> bool:
    """Whether the value of ``node``, which a guided trace knows, is a tensor without elements."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.numel() == 0


def _nodes(given: list[Given]) -> list[Node]:
    return [one.node for one in given if one.node is not None]


def _picks(node: Node) -> bool:
    return node.target is operator.getitem and isinstance(node.args[1], int)


def _keeps_dim(node: Node) -> bool:
    """Whether a reduction keeps the reduced axis: ``max(dim, keepdim)`` of a tensor."""
    return bool(_argument(node, "keepdim", 2))


def _argument(node: Node, name: str, position: int) -> Any:
    return node.kwargs.get(name, node.args[position] if position < len(node.args) else None)
