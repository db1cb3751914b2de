"""GraphWriter: collects the nodes, inputs and initializers of one ONNX graph while it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor

from ...onnx_io.initializers import NameGiver
from ...onnx_io.opset import ir_version_of
from ...onnx_io.rows_tensor import RowsTensor, ScaledTensor
from ..layers.folded_op import UnfoldedWeight
from .types import array_of, onnx_type

Attribute = int | float | str | Sequence[int] | Sequence[float] | NDArray[np.generic] | None

_PRODUCER = "hotwheels.amct_pytorch"
_SMALL = 64  # bytes up to which equal constants become one initializer


class GraphWriter:
    """One ONNX graph in the making.

    Attributes:
      opset: Version of the standard operators.
      scope: Name of the operation being written; its nodes are named ``/<scope>/<OpType>``, and numbered at the end.
      nodes: The nodes so far, in order.
      inputs: The inputs so far, in order.
      initializers: The initializers so far, in order.
      domains: Versions of the operator sets that the nodes use.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.scope = ""
        self.nodes: list[ir.Node] = []
        self._scopes: list[str] = []  # the scope of each node
        self.inputs: list[ir.Value] = []
        self.initializers: list[ir.Value] = []
        self.domains: dict[str, int] = {"": opset}
        self.value_names = NameGiver()
        self._by_memory: dict[tuple[object, ...], ir.Value] = {}
        self._by_content: dict[tuple[object, ...], ir.Value] = {}

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Appends a node with one output and returns the output; attributes that are None are left out."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Appends a node and returns its ``outputs``."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        given = {name: _attribute(value) for name, value in attributes.items() if value is not None}
        node = ir.node(op_type, inputs, given, domain=domain, num_outputs=outputs)
        self.append(node, version=1)
        return node.outputs

    def append(self, node: ir.Node, path: str = "", version: int | None = None) -> None:
        """Appends ``node``, which is in no graph yet. ``path``: modules inside the scope, ``/inner/conv``."""
        scope = f"/{self.scope}" if self.scope else ""
        node.name = f"{scope}{path}/{node.op_type}"
        if node.domain and version is not None:
            self.domains.setdefault(node.domain, version)
        self.nodes.append(node)
        self._scopes.append(self.scope)

    @contextlib.contextmanager
    def in_scope(self, scope: str) -> Iterator[list[ir.Node]]:
        """Returns a context in which nodes belong to ``scope``; yields a list that holds these nodes after the block.

        Nodes of a nested scope are not in the list.
        """
        before, self.scope, start = self.scope, scope, len(self.nodes)
        written: list[ir.Node] = []
        try:
            yield written
            inside = zip(self.nodes[start:], self._scopes[start:], strict=True)
            written += [node for node, owner in inside if owner == scope]
        finally:
            self.scope = before

    def add_input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str | None]) -> ir.Value:
        """Returns a new input of the graph."""
        value = ir.val(self.value_names.give(name), dtype=dtype, shape=ir.Shape(shape))
        self.inputs.append(value)
        return value

    def initializer(self, tensor: Tensor, name: str = "") -> ir.Value:
        """Returns the initializer of ``tensor``, a constant; not copied, and one initializer for the same memory.

        ``name`` is used if it is free. Small tensors with equal content share one initializer too.
        """
        if isinstance(tensor, UnfoldedWeight):
            return self._unfolded(tensor, name)
        array = array_of(tensor)
        if array.nbytes <= _SMALL:
            return self.constant(array.copy(), name, onnx_type(tensor.dtype))
        key = (array.ctypes.data, array.shape, array.strides, tensor.dtype)
        if key not in self._by_memory:
            self._by_memory[key] = self.add_initializer(_held(array, onnx_type(tensor.dtype)), name)
        return self._by_memory[key]

    def _unfolded(self, weight: UnfoldedWeight, name: str) -> ir.Value:
        key = (id(weight),)
        if key not in self._by_memory:
            tensor = ScaledTensor(array_of(weight.base), array_of(weight.factor))
            self._by_memory[key] = self.add_initializer(tensor, name)
        return self._by_memory[key]

    def constant(self, array: NDArray[np.generic], name: str = "", dtype: ir.DataType | None = None) -> ir.Value:
        """Returns ``array`` as an initializer; small arrays with equal content share one initializer."""
        if array.nbytes > _SMALL:
            return self.add_initializer(ir.Tensor(array, dtype=dtype), name)
        key = (array.dtype.str, dtype, array.shape, array.tobytes())
        if key not in self._by_content:
            self._by_content[key] = self.add_initializer(ir.Tensor(array, dtype=dtype), name)
        return self._by_content[key]

    def add_initializer(self, tensor: ir.TensorProtocol, name: str = "") -> ir.Value:
        """Returns a new initializer ``name`` or, if that name is taken or empty, with a similar name."""
        tensor.name = self.value_names.give(name or (f"/{self.scope}/constant" if self.scope else "/constant"))
        value = ir.val(tensor.name, const_value=tensor)
        self.initializers.append(value)
        return value

    def model(self, results: Sequence[ir.Value], names: Sequence[str]) -> ir.Model:
        """Returns the model with the outputs ``results``, named ``names``, without unused nodes and initializers."""
        graph = ir.Graph(
            self.inputs,
            self._outputs(results, names),
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports=self.domains,
            name="main_graph",
        )
        model = ir.Model(graph, ir_version=ir_version_of(self.opset), producer_name=_PRODUCER)
        RemoveUnusedNodesPass()(model)
        return model

    def _outputs(self, results: Sequence[ir.Value], names: Sequence[str]) -> list[ir.Value]:
        """Returns distinct output values: an input, a constant or a repeated output gets an Identity node."""
        outputs: list[ir.Value] = []
        for value, name in zip(results, names, strict=True):
            output = value
            if value.producer() is None or value in outputs:
                output = self.op("Identity", value)
                output.type, output.shape = value.type, value.shape
            output.name = name
            outputs.append(output)
        return outputs


def _held(array: NDArray[Any], dtype: ir.DataType) -> ir.TensorProtocol:
    """Returns ``array`` as a tensor with the same memory; a transposed array is put in order when it is written."""
    if array.flags.c_contiguous:
        return ir.Tensor(array, dtype=dtype)
    return RowsTensor(lambda start, stop: array[start:stop], dtype, array.shape)


def _attribute(value: Attribute) -> Any:
    return ir.tensor(value) if isinstance(value, np.ndarray) else value
