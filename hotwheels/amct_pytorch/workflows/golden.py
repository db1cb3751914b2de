"""The integers of one real_quant forward of a quantized model, which its golden file holds (spec 10.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..backends.fx.read.called import callable_of
from ..backends.real_quant.between_layers import BetweenLayers
from ..backends.real_quant.known import is_known
from ..backends.user_model.model_state import unchanged
from ..nn.mode import Mode
from ..nn.quantized_layer import QuantizedLayer
from ..oracle.real_quant_check import RealQuantIntegers
from ..torch_private import pytree
from .kept_state import copies_of, kept_state


def real_quant_integers(quantized: QuantGraphModule, inputs: tuple[Any, ...]) -> RealQuantIntegers:
    """Runs ``quantized`` once in real_quant on ``inputs``, wherever they are, and gives its state back.

    Raises:
      CalibrationError: An accumulator exceeds int32, or a value has no integer.
    """
    layers = quantized.quantized_layers
    device = next((one.device for one in quantized.parameters()), torch.device("cpu"))
    placed = pytree.tree_map_only(Tensor, lambda one: one.to(device), copies_of(inputs))
    trace = _Trace()
    with kept_state(quantized), unchanged(quantized), torch.no_grad(), torch.random.fork_rng(devices=()):
        quantized.eval().mode = Mode.REAL_QUANT
        for layer in layers.values():
            layer.watcher = trace
        try:
            quantized(*placed)
        finally:
            for layer in layers.values():
                layer.watcher = None
    edges = {
        name: {index: one for index, one in found.items() if index not in layers[name].constant_inputs}
        for name, found in trace.edges.items()
    }
    return RealQuantIntegers(
        edges=edges,
        sums=trace.sums,
        has_float_sums=_has_float_sums(quantized),
        functions=tuple(dict.fromkeys(_functions_of_the_user(quantized))),
    )


def _has_float_sums(quantized: QuantGraphModule) -> bool:
    """Whether a product in float, or a function of the user, is called between the layers."""
    called = (callable_of(quantized, node) for node in quantized.graph.nodes if node.op.startswith("call_"))
    return any(BetweenLayers().gives_single(one) for one in called if not isinstance(one, QuantizedLayer))


def _functions_of_the_user(quantized: QuantGraphModule) -> Iterator[str]:
    for node in quantized.graph.nodes:
        code = getattr(node.target, "__code__", None)
        if node.op == "call_function" and code is not None and not is_known(node.target):
            yield f"'{node.target.__name__}' ({code.co_filename}:{code.co_firstlineno})"


class _Trace:
    """Notes the integers as int32."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[int, NDArray[np.int32]]] = {}
        self.sums: dict[str, NDArray[np.int32]] = {}

    def add_edge(self, layer: str, index: int, integers: Tensor) -> None:
        self.edges.setdefault(layer, {})[index] = integers.to("cpu", torch.int32).numpy()

    def add_sums(self, layer: str, sums: Tensor) -> None:
        self.sums[layer] = sums.to("cpu", torch.int32).numpy()
