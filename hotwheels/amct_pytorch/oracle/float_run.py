"""Runs a float ONNX model on one example: in onnxruntime if that is installed, else in the oracle."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ConfigError
from ..log import get_logger
from ..onnx_io.custom_domain import lower_custom_domain
from ..onnx_io.initializers import add_initializer
from ..onnx_io.large_tensors import take_large_tensors
from ..onnx_io.rows_tensor import ScaledTensor
from .deploy_pair import DeployPair, Graph, read_graph
from .interpreter import Interpreter

_log = get_logger(__name__)
_LARGE_TENSOR = 1 << 14  # bytes from which on a constant is fed as an input
_CONTRIB = "com.microsoft"  # operators which only onnxruntime has


def run_float(model: ir.Model, inputs: Sequence[NDArray[Any]], also: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
    """Returns the graph outputs of ``model`` and the values named in ``also``, by name.

    Args:
      model: Float model; ``custom_domain`` operators are allowed. Not changed.
      inputs: One array for each graph input, in order.
      also: Names of further values.

    Raises:
      ConfigError: The number of inputs differs from that of the graph.
      UnsupportedModelError: onnxruntime cannot run the model, and the oracle has no kernel for an operator.
    """
    lowered = model.clone()
    lower_custom_domain(lowered)
    _scale_in_the_graph(lowered)
    names = [str(value.name) for value in lowered.graph.inputs if not value.is_initializer()]
    if len(names) != len(inputs):
        raise ConfigError(f"The ONNX model has the inputs {names}; {len(inputs)} tensors are given.")
    feeds = dict(zip(names, inputs, strict=True))
    # Large constants are fed as inputs, of which neither a message nor a session makes a copy.
    feeds |= {name: np.asarray(one.numpy()) for name, one in take_large_tensors(lowered, _LARGE_TENSOR).items()}
    known = [value.name for value in lowered.graph.outputs]
    extra = [name for name in dict.fromkeys(also) if name not in known]
    if importlib.util.find_spec("onnxruntime") is not None:
        found = _run_session(lowered, feeds, extra)
        if found is not None:
            return found
    return _run_oracle(read_graph(ir.to_proto(lowered)), feeds, extra)


def _scale_in_the_graph(model: ir.Model) -> None:
    """Makes nodes of the products that are constants of ``model``, so that each is only in memory while it is used."""
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if not isinstance(tensor, ScaledTensor) or value.is_graph_output():
            continue
        parts = [add_initializer(model.graph, f"{name}.{one}", getattr(tensor, one)) for one in ("base", "factor")]
        product = ir.node("Mul", parts, name=f"{name}.product")
        # At the start: onnxruntime computes what a node reads in the opposite order of the nodes, so a product last.
        model.graph.insert_before(model.graph[0], product)
        ir.convenience.replace_all_uses_with(value, product.outputs[0])
        product.outputs[0].dtype, product.outputs[0].shape = tensor.dtype, ir.Shape(tensor.shape.numpy())
        del model.graph.initializers[name]


def _run_session(
    model: ir.Model, feeds: Mapping[str, NDArray[Any]], also: Sequence[str]
) -> dict[str, NDArray[Any]] | None:
    """Returns the results of a session; None if onnxruntime cannot run the model."""
    import onnxruntime  # an optional requirement (extra "runtime")
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    copy = model.clone()
    fed = {name: _as_it_lies(copy, name, array) for name, array in feeds.items()}
    proto = ir.to_proto(copy)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads burn no processor time
    options.enable_cpu_mem_arena = False  # memory that is no longer needed is returned to the system
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, map(np.asarray, session.run(names, fed)), strict=True))
    except refusals as error:
        _log.debug("onnxruntime does not run the float model: %s", error)
        return None


def _as_it_lies(model: ir.Model, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Returns the array for the input ``name``; changes the readers of a matrix that is transposed in memory.

    A session would make a copy of that: the weights of all Linear layers of a transformer.
    """
    if array.ndim != 2 or array.flags.c_contiguous or not array.T.flags.c_contiguous:
        return array
    value = next(value for value in model.graph.inputs if value.name == name)
    uses = value.uses()
    if any(use.node.op_type != "MatMul" or use.idx != 1 for use in uses):
        return array
    for use in uses:
        use.node.op_type, use.node.domain = "FusedMatMul", _CONTRIB
        use.node.attributes.add(ir.AttrInt64("transB", 1))
    model.opset_imports.setdefault(_CONTRIB, 1)
    value.shape = ir.Shape(array.shape[::-1])
    return array.T


def _run_oracle(graph: Graph, feeds: Mapping[str, NDArray[Any]], also: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    graph = dataclasses.replace(graph, outputs=(*graph.outputs, *also))
    return Interpreter.of(DeployPair(graph=graph, layers={})).run(feeds).outputs
