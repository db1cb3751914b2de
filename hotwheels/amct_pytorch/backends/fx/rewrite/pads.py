"""Makes zeros padded in front of a convolution or pooling part of that layer, if the result is the same.

A padding node is removed if only the layer reads it, and the layer is one of these:

1. a convolution whose weight no other call reads: 0 is a point of every grid, so padding and quantizing commute;
2. an average pooling whose own padding counts, or that has none, without ``ceil_mode`` and ``divisor_override``;
3. a maximum pooling of values that are never negative, without ``ceil_mode``.

A pooling's margins must be smaller than its window, as in ONNX. Margins computed from sizes are numbers if the trace
had an example.
"""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from ....nn.computed_tensor import ComputedTensor, Step, Tree
from ....nn.padding import POOLS, Margins
from ....nn.weighted_call import Conv1dCall, Conv2dCall, WeightedCall
from ....ops.registry import Registry
from ..read.spelling import find_op, remember_spelling
from ..trace.frozen import check_number, known_number
from .weighted_calls import FOLDER

_CONVOLUTIONS: dict[type[nn.Module], tuple[type[WeightedCall], int]] = {
    nn.Conv1d: (Conv1dCall, 1),
    nn.Conv2d: (Conv2dCall, 2),
}
_MAX_POOLS = frozenset({"max_pool1d", "max_pool2d"})
_DEFAULTS = {"kernel_size": None, "padding": 0, "dilation": 1}
_POOL_KINDS = ("max", "avg", "adaptive_max", "adaptive_avg")
_NEVER_NEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "softmax2d", "abs"})
_KEEPING_SIGN = frozenset(f"{kind}_pool{axes}d" for kind in _POOL_KINDS for axes in (1, 2))


def place_pads(graph_module: GraphModule, registry: Registry) -> None:
    """Rewrites ``graph_module`` in place."""
    placer = _Placer(graph_module, registry)
    for node in list(graph_module.graph.nodes):
        placer.place(node)


class _Placer:
    def __init__(self, graph_module: GraphModule, registry: Registry) -> None:
        self._module = graph_module
        self._registry = registry
        self._tree = Tree(graph_module)
        self._calls = Counter(str(node.target) for node in graph_module.graph.nodes if node.op == "call_module")

    def place(self, node: Node) -> None:
        """Makes the padding in front of ``node`` part of its layer, if the result is the same."""
        pad = node.args[0] if node.op.startswith("call") and node.args else None
        margins = self._margins(pad) if isinstance(pad, Node) and len(pad.users) == 1 else None
        if margins is None:
            return
        assert isinstance(pad, Node)
        made = self._padded(node, margins)
        if made is None:
            return
        if FOLDER not in self._module._modules:
            self._module.add_module(FOLDER, nn.Module().train(self._module.training))
        remember_spelling(node)
        self._module.get_submodule(FOLDER).add_module(node.name, made.train(self._module.training))
        data = pad.args[0] if pad.args else pad.kwargs["input"]
        for number in (one for one in pad.all_input_nodes if one is not data):
            check_number(number)
        node.op, node.target, node.args, node.kwargs = "call_module", f"{FOLDER}.{node.name}", (data,), {}
        self._module.graph.erase_node(pad)

    def _called(self, node: Node) -> Any:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _op_name(self, node: Node) -> str:
        module = self._called(node)
        op = find_op(node, None if module is None else type(module), self._registry)
        return "" if op is None else op.name

    def _margins(self, node: Node) -> Margins | None:
        """Returns the margins of ``node``; None unless it pads with zeros, by known numbers that are not negative."""
        module, value, pad = self._called(node), None, None
        if isinstance(module, (nn.ConstantPad1d, nn.ConstantPad2d)):  # ZeroPad1d and ZeroPad2d, too
            pad, value = module.padding, module.value
        elif node.op == "call_function" and node.target is F.pad:
            given = inspect.signature(_pad).bind(*node.args, **node.kwargs).arguments
            pad, value = given["pad"], given.get("value")
            if given.get("mode", "constant") != "constant":
                return None
        if not isinstance(pad, (tuple, list)) or (value is not None and (isinstance(value, Node) or value != 0)):
            return None
        numbers = [known_number(one) if isinstance(one, Node) else one for one in pad]
        margins = tuple(one for one in numbers if isinstance(one, int) and one >= 0)
        return margins if len(margins) == len(numbers) and any(margins) else None

    def _padded(self, node: Node, margins: Margins) -> nn.Module | None:
        """Returns the module of ``node`` with ``margins``; None if its result would differ."""
        if len(node.args) + len(node.kwargs) > 1 and node.op == "call_module":
            return None
        module = self._called(node)
        kind = next((_CONVOLUTIONS[cls] for cls in type(module).__mro__ if cls in _CONVOLUTIONS), None)
        if kind is not None:
            return self._convolution(str(node.target), module, *kind, margins)
        name = self._op_name(node)
        axes = _axes_of(name)
        settings = self._pool_settings(node, name) if name in POOLS and len(margins) <= 2 * axes else None
        return None if settings is None else self._pool(node, name, settings, (*margins, 0, 0)[: 2 * axes])

    def _convolution(
        self, path: str, module: Any, kind: type[WeightedCall], axes: int, margins: Margins
    ) -> nn.Module | None:
        if len(margins) > 2 * axes or module.padding_mode != "zeros" or self._calls[path] > 1:
            return None
        if isinstance(module, WeightedCall):
            module.margins = margins
            return module
        weight = ComputedTensor(path, self._tree, (Step(f"{path}.weight"),))
        bias = None if module.bias is None else ComputedTensor(f"{path}.bias", self._tree, (Step(f"{path}.bias"),))
        made = kind.of(module, weight, bias)
        made.margins = margins
        return made

    def _pool_settings(self, node: Node, name: str) -> dict[str, Any] | None:
        """Returns the arguments of the module for the pooling ``node``; None if they contain nodes or do not fit."""
        module = self._called(node)
        function = _max_pool if name in _MAX_POOLS else _avg_pool
        if module is not None:
            names = [*inspect.signature(function).parameters][1:]
            return {one: getattr(module, one) for one in names if hasattr(module, one)}
        try:
            given = inspect.signature(function).bind(*node.args, **node.kwargs).arguments
        except TypeError:
            return None
        given.pop("input")
        has_nodes = any(isinstance(one, Node) for one in (*node.args[1:], *node.kwargs.values()))
        return None if has_nodes else dict(given)

    def _pool(self, node: Node, name: str, settings: dict[str, Any], margins: Margins) -> nn.Module | None:
        axes = _axes_of(name)
        kernel, own, dilation = (_each(settings.get(one, by), axes) for one, by in _DEFAULTS.items())
        largest = [max(margins[2 * at : 2 * at + 2]) + own[-1 - at] for at in reversed(range(axes))]
        fits = all(size < extent for size, extent in zip(largest, kernel, strict=True))
        if not fits or settings.get("ceil_mode") or settings.get("return_indices"):
            return None
        if name not in _MAX_POOLS:
            is_counted = settings.get("count_include_pad", True) or not any(own)
            return POOLS[name](margins, **settings) if is_counted and not settings.get("divisor_override") else None
        pad = node.args[0]
        assert isinstance(pad, Node)
        is_plain = set(dilation) == {1}
        return POOLS[name](margins, **settings) if is_plain and self._is_never_negative(pad.args[0]) else None

    def _is_never_negative(self, node: Any) -> bool:
        while isinstance(node, Node):
            name = self._op_name(node)
            if name not in _KEEPING_SIGN:
                return name in _NEVER_NEGATIVE
            node = node.args[0] if node.args else None
        return False


def _axes_of(name: str) -> int:
    """Returns along how many axes the pooling ``name`` moves its window; 0 for other operations."""
    return {"1d": 1, "2d": 2}.get(name[-2:], 0)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    """Returns ``value`` for each axis."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * axes if len(values) == 1 else values


# Signatures of functions that are builtins, or whose own signature is hidden.
def _pad(input: Any, pad: Any, mode: Any = "constant", value: Any = None) -> None: ...


def _max_pool(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: Any = False,
    return_indices: Any = False,
) -> None: ...  # fmt: skip


def _avg_pool(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: Any = False,
    count_include_pad: Any = True, divisor_override: Any = None,
) -> None: ...  # fmt: skip
