"""Quantized layers as plain float modules with markers around them, for the ONNX export of both back-ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...nn.batch_norm_call import BatchNormCall
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from .markers import mark_input, mark_result
from .torch_exporter import refuse_unbatched_pooling


class FunctionModule(nn.Module):
    """A function as a module of its own, whose name the exporter then gives to its nodes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Copies ``function`` if it is a module, so that its device and training flag may change."""
        super().__init__()
        if isinstance(function, BatchNormCall):  # the exporter wants buffers, not properties
            function = function.frozen()
        self.function = copy.deepcopy(function) if isinstance(function, nn.Module) else function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        return self.function(*args, **kwargs)


class FoldedOp(nn.Module):
    """A weighted operation with its BatchNorm folded into parameters of its own; without one it copies nothing."""

    def __init__(self, op: WeightedOp) -> None:
        super().__init__()
        weight, bias = op.folded()
        self._op = op
        self.weight = nn.Parameter(weight.detach().cpu(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().cpu(), requires_grad=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Computes the operation."""
        return self._op.apply(input, self.weight, self.bias, output_size)


class ExportedLayer(nn.Module):
    """One quantized layer in float, with markers around it; without any if it turned out to have no float input."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self._layer_name, self._op = layer.name, layer.op
        self._call = layer.call
        self._is_marked = [not bool(other) for other in layer.non_float_inputs]
        self.function = FunctionModule(layer.call.function) if layer.weighted is None else FoldedOp(layer.weighted.op)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the layer between its markers."""
        refuse_unbatched_pooling(self._layer_name, self._op, args[0] if args else None)
        args, kwargs = self._call.substitute(args, kwargs, self._marked(self._call.inputs(args, kwargs)))
        result = self.function(*args, **kwargs)
        return mark_result(result, self._layer_name) if any(self._is_marked) else result

    def _marked(self, values: list[Any]) -> list[Any]:
        return [
            mark_input(x, self._layer_name, index) if is_marked else x
            for index, (x, is_marked) in enumerate(zip(values, self._is_marked, strict=True))
        ]
