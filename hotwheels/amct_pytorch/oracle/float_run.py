"""Runs a float ONNX model on one example: in onnxruntime where that is installed, else in the oracle."""

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
from .deploy_pair import DeployPair, Graph, read_graph
from .interpreter import Interpreter

_log = get_logger(__name__)
_LARGEST_MESSAGE = 2**31 - 2**20  # bytes of one protobuf message, which a session takes


def run_float(model: ir.Model, inputs: Sequence[NDArray[Any]], also: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
    """Returns the graph outputs of ``model`` and the values ``also`` names, by name.

    Args:
      model: Float model; ``custom_domain`` operators are allowed. Not changed.
      inputs: One array for each graph input, in order.
      also: Names of further values.

    Raises:
      ConfigError: The number of inputs is another one.
      UnsupportedModelError: There is no onnxruntime that runs it, and the oracle has no kernel for an operator.
    """
    lowered = model.clone()
    lower_custom_domain(lowered)
    proto = ir.to_proto(lowered)
    names = _input_names(proto)
    if len(names) != len(inputs):
        raise ConfigError(f"The ONNX model has the inputs {names}; {len(inputs)} tensors are given.")
    feeds = dict(zip(names, inputs, strict=True))
    known = [one.name for one in proto.graph.output]
    extra = [name for name in dict.fromkeys(also) if name not in known]
    if importlib.util.find_spec("onnxruntime") is not None and proto.ByteSize() < _LARGEST_MESSAGE:
        found = _run_session(proto, feeds, extra)
        if found is not None:
            return found
    return _run_oracle(read_graph(proto), feeds, extra)


def _input_names(proto: onnx.ModelProto) -> list[str]:
    constants = {one.name for one in proto.graph.initializer}
    return [one.name for one in proto.graph.input if one.name not in constants]


def _run_session(
    proto: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], also: Sequence[str]
) -> dict[str, NDArray[Any]] | None:
    """Returns the results of a session; None if onnxruntime cannot run the model."""
    import onnxruntime  # an optional requirement (extra "runtime")
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, map(np.asarray, session.run(names, dict(feeds))), strict=True))
    except refusals as error:
        _log.debug("onnxruntime does not run the float model: %s", error)
        return None
    finally:
        del proto.graph.output[len(proto.graph.output) - len(also) :]


def _run_oracle(graph: Graph, feeds: Mapping[str, NDArray[Any]], also: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    graph = dataclasses.replace(graph, outputs=(*graph.outputs, *also))
    return Interpreter.of(DeployPair(graph=graph, layers={})).run(feeds).outputs
