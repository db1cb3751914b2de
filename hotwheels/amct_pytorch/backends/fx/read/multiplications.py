"""Counts the multiplications of each node in one forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

from ....nn.mode import Mode
from ....nn.quantized_layer import QuantizedLayer
from ....ops.registry import Registry
from ....torch_private import DispatchMode
from ..interpreters import layer_name
from ..quant_graph_module import QuantGraphModule, positional
from .liveness import live_nodes
from .values import Value, classify

_FLOPS_PER_MULTIPLICATION = 2  # torch counts a multiplication and an addition


def _of_recurrent_layer(x: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    """Returns the operations of a direction of an LSTM: ``x`` [steps, samples, inputs] runs through both matrices."""
    return _FLOPS_PER_MULTIPLICATION * x.shape[0] * x.shape[1] * (weight.numel() + recurrent.numel())


# torch counts no LSTM that oneDNN computes in one call.
_COUNTS: dict[Any, Callable[..., Any]] = {**flop_registry, torch.ops.aten.mkldnn_rnn_layer: _of_recurrent_layer}


@torch.no_grad()
def count_multiplications(model: QuantGraphModule, inputs: tuple[Any, ...]) -> dict[str, int]:
    """Returns the number of multiplications per node in the float forward of ``model`` on ``inputs``, by layer name.

    Nodes that compute from constants alone, and those that no output depends on, are left out: no file has them.
    """
    before = model.mode
    model.mode = Mode.FLOAT
    try:
        counter = _Counter(model)
        counter.run(*positional(model, inputs, {}))
    finally:
        model.mode = before
    return counter.counted


class _Flops(DispatchMode):  # type: ignore[no-untyped-call]
    """Counts like torch's FlopCounterMode, but without its module hooks, which require gradients of the inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls an operation and counts it."""
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=result))
        return result


class _Counter(fx.Interpreter):
    def __init__(self, model: QuantGraphModule) -> None:
        super().__init__(model)
        self.counted: dict[str, int] = {}
        self._values = classify(model.graph, Registry())
        self._live = live_nodes(model)

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and counts."""
        flops = _Flops()
        run = self._prepared(n) or functools.partial(super().run_node, n)
        with flops:
            result = run()
        if n in self._live and self._values[n] is not Value.CONSTANT:
            self.counted[layer_name(self.module, n)] = flops.total // _FLOPS_PER_MULTIPLICATION
        return result

    def _prepared(self, n: fx.Node) -> Callable[[], Any] | None:
        """Returns the call of a layer with its weight already computed, as in a file; None for other nodes."""
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if not isinstance(module, QuantizedLayer) or module.weighted is None:
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        rest = {name: value for name, value in kwargs.items() if name != "input"}
        (x,), op = module.call.inputs(args, kwargs), module.weighted.op
        return functools.partial(op.apply, x, *op.folded(), *args[1:], **rest)
