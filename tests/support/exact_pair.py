"""Runs real_quant and the oracle on the same inputs and compares every integer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.errors import CalibrationError
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from hotwheels.amct_pytorch.oracle.digest import deploy_paths
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter, Result
from tests.support.integer_trace import IntegerTrace, trace_integers


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared: how many quantized inputs, accumulators and their elements; and what differs."""

    edges: int
    sums: int
    elements: int
    differences: tuple[str, ...]


def assert_exact(quantized: QuantGraphModule, folder: Path, inputs: Sequence[Tensor], **setting: Any) -> Comparison:
    """Saves ``quantized`` and demands that both sides agree on every integer for ``inputs``."""
    prefix = folder / "exact"
    amct.save_quant_model_fx(quantized, prefix, tuple(inputs), setting or None)
    try:
        trace = run_torch(quantized, inputs)
    except CalibrationError:  # an accumulator outside int32: neither side may compute on
        with pytest.raises(CalibrationError):
            run_oracle(prefix, inputs)
        return Comparison(0, 0, 0, ())
    return assert_equal(quantized.quantized_layers, trace, run_oracle(prefix, inputs))


def assert_equal(layers: Mapping[str, QuantizedLayer], trace: IntegerTrace, result: Result) -> Comparison:
    """Demands that both sides agree on every integer."""
    found = compare(layers, trace, result)
    assert not found.differences, "\n".join(found.differences)
    assert found.edges
    return found


def run_torch(quantized: nn.Module, inputs: Sequence[Tensor]) -> IntegerTrace:
    amct.enable_quantization(quantized, real_quant=True)
    with torch.no_grad(), trace_integers(quantized) as trace:
        quantized(*inputs)
    return trace


def run_oracle(prefix: Path, inputs: Sequence[Tensor]) -> Result:
    interpreter = Interpreter(*deploy_paths(prefix), is_limited=False)
    names = interpreter.pair.graph.inputs
    return interpreter.run({name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def compare(layers: Mapping[str, QuantizedLayer], trace: IntegerTrace, result: Result) -> Comparison:
    differences: list[str] = []
    edges = sums = elements = 0
    for name, found in trace.edges.items():
        oracle = result.edges_of(name)
        layer = layers.get(name) or layers[name.rpartition(":")[0]]  # a further use of it
        constants = layer.constant_inputs  # in the file they are no inputs
        ours = {index: x.numpy() for index, x in found.items() if index not in constants}
        edges += len(ours)
        elements += sum(x.size for x in ours.values())
        differences += _edge_differences(name, ours, oracle)
    for name, x in trace.sums.items():
        if name in result.sums:
            sums += 1
            differences += _first_difference(f"{name}, accumulator", x.numpy(), result.sums[name])
    lost = {name for name in trace.edges if not result.edges_of(name)}
    differences += [f"{name}: on integers in the oracle only" for name in result.sums if name not in trace.sums]
    differences += [f"{name}: not in the deploy pair" for name in lost if trace.edges[name]]
    return Comparison(edges, sums, elements, tuple(differences))


def _edge_differences(name: str, ours: Mapping[int, NDArray[Any]], oracle: Sequence[NDArray[Any]]) -> list[str]:
    """Inputs of one layer; the oracle has each distinct tensor once, in the order of its nodes."""
    unmatched = [x for x in oracle if not any(_is_same(x, one) for one in ours.values())]
    lost = {index: x for index, x in ours.items() if not any(_is_same(x, one) for one in oracle)}
    found = [_describe(f"{name}, input {index}", x, unmatched) for index, x in lost.items()]
    return found + ([f"{name}: the oracle has {len(unmatched)} more inputs"] if unmatched and not lost else [])


def _describe(name: str, ours: NDArray[Any], candidates: Sequence[NDArray[Any]]) -> str:
    for one in candidates:
        if one.shape == ours.shape:
            return _first_difference(name, ours, one)[0]
    return f"{name}: the oracle has no such input; its others are {[x.shape for x in candidates]}, ours {ours.shape}"


def _first_difference(name: str, ours: NDArray[Any], oracle: NDArray[Any]) -> list[str]:
    if ours.shape != oracle.shape:
        return [f"{name}: shape {ours.shape}, the oracle's is {oracle.shape}"]
    places = np.argwhere(ours != oracle)
    if not len(places):
        return []
    at = tuple(places[0])
    return [f"{name}: {len(places)} of {ours.size} differ; at {list(map(int, at))} {ours[at]:.0f}, oracle {oracle[at]}"]


def _is_same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.shape == right.shape and bool(np.array_equal(left, right))
