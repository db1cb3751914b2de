"""Exports a quantized graph as a float ONNX model with marker nodes around its layers (SPEC 11.3, 11.6)."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.onnx.errors import UnsupportedOperatorError
from torch.utils import _pytree as pytree

from ...errors import ExportError
from ...log import get_logger
from ...nn.call import LayerCall, MethodCall
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from ...ops.desc import Role
from ...ops.registry import Registry
from ...plan.planner import folded_batch_norm
from ..markers import mark_input, mark_output
from .graph import build_graph
from .known import is_known
from .quant_graph_module import QuantGraphModule

_log = get_logger(__name__)
DEFAULT_OPSET = 13
_HIGHEST_OPSET = 20  # what the TorchScript exporter knows


def export_float(
    model: QuantGraphModule, inputs: tuple[Any, ...], setting: dict[str, Any], registry: Registry
) -> bytes:
    """Returns the float model, BatchNorm folded, with marker nodes, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without an ``opset_version`` the lowest one from 13
    on that knows all operations is taken. ``model`` is not changed.
    """
    module = _export_module(model, registry)
    opsets = [setting["opset_version"]] if "opset_version" in setting else range(DEFAULT_OPSET, _HIGHEST_OPSET + 1)
    refusal: UnsupportedOperatorError | None = None
    for opset in opsets:
        try:
            return _export(module, inputs, {**setting, "opset_version": opset})
        except UnsupportedOperatorError as error:
            refusal = refusal or error
            _log.debug("Opset %d does not do: %s", opset, error)
    raise ExportError(f"The model cannot be exported to ONNX: {refusal}") from refusal


def forward_names(model: fx.GraphModule) -> list[str]:
    """Returns the argument names of ``forward``, the default names of the ONNX inputs."""
    return [str(node.target).lstrip("*") for node in model.graph.nodes if node.op == "placeholder"]


def output_names(model: fx.GraphModule) -> list[str]:
    """Returns ``output``, or ``output_0``, ``output_1``, ... for what ``forward`` returns (SPEC 2.4).

    A call whose result is a tuple counts as one here; ``onnx_io.model_file.name_outputs`` mends that when the count
    is known.
    """
    result = next(node for node in model.graph.nodes if node.op == "output").args[0]
    count = sum(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(result))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _export(module: fx.GraphModule, inputs: tuple[Any, ...], setting: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about tracing and deprecation; they speak to the exporter's direct user
        torch.onnx.export(module, inputs, file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, **setting)
    return file.getvalue()


def _export_module(model: QuantGraphModule, registry: Registry) -> fx.GraphModule:
    """Returns a copy of the model in eval mode on the CPU in which every node is a module named after its layer.

    The exporter names nodes after the modules they come from; in a flat model these are the layer names.
    """
    model = copy.deepcopy(model).cpu().eval()
    graph, root = fx.Graph(), nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    folded = _unquantized_folds(model, registry)
    for node in model.graph.nodes:
        if node in folded.values():
            copies[node] = copies[node.args[0]]
            continue
        new = copies[node] = graph.node_copy(node, lambda old: copies[old])
        if node.op == "get_attr":
            _set_attribute(root, str(node.target), _attribute(model, str(node.target)))
        elif node.op.startswith("call"):
            _to_module_call(model, node, new, root, folded)
    return fx.GraphModule(root, graph).eval()


def _to_module_call(
    model: QuantGraphModule, node: fx.Node, new: fx.Node, root: nn.Module, folded: dict[fx.Node, fx.Node]
) -> None:
    module = _as_module(model, node, folded.get(node))
    if module is None:
        return
    name = node.name if not hasattr(nn.Module, node.name) else f"{node.name}_"  # ``to`` would be nn.Module.to
    while hasattr(root, name):
        name += "_"
    root.add_module(name, module)
    new.op, new.target = "call_module", name


def _as_module(model: QuantGraphModule, node: fx.Node, batch_norm: fx.Node | None) -> nn.Module | None:
    if node.op == "call_function":
        return _Call(node.target) if is_known(node.target) and _makes_tensors(node) else None
    if node.op == "call_method":
        return _Call(MethodCall(str(node.target))) if _makes_tensors(node) else None
    module = model.get_submodule(str(node.target))
    if isinstance(module, QuantizedLayer):
        return _ExportedLayer(module)
    if batch_norm is not None:
        role = Role.CONV_TRANSPOSE if isinstance(module, nn.ConvTranspose2d) else Role.CONV
        return _FoldedOp(WeightedOp(module, role, model.get_submodule(str(batch_norm.target))))
    return module


_SIZE_QUERIES = ("size", "dim", "numel", "ndimension")


def _makes_tensors(node: fx.Node) -> bool:
    """Whether a scope name around it is of use: getattr, getitem and sizes have none in ONNX."""
    return node.target not in _SIZE_QUERIES and getattr(node.target, "__name__", "") not in ("getattr", "getitem")


def _unquantized_folds(model: QuantGraphModule, registry: Registry) -> dict[fx.Node, fx.Node]:
    """Pairs of a float convolution and the BatchNorm behind it: folded in every exported file (SPEC 11.3)."""
    graph = build_graph(model, registry)
    nodes = {node.name: node for node in model.graph.nodes}
    pairs = ((node.name, folded_batch_norm(graph, node)) for node in graph)
    return {nodes[conv]: nodes[norm] for conv, norm in pairs if norm is not None}


class _Call(nn.Module):
    """A function as a module of its own, which gives its nodes a scope."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class _FoldedOp(nn.Module):
    """A weighted operation with its BatchNorm folded into parameters of its own, float32."""

    def __init__(self, op: WeightedOp) -> None:
        super().__init__()
        weight, bias = op.folded()
        self._op = op
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return self._op.apply(input, self.weight, self.bias, output_size)


class _ExportedLayer(nn.Module):
    """One quantized layer in float, with markers around it."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self._name = layer.name
        self._marked = [not bool(other) for other in layer.non_float_inputs]
        self._places = LayerCall(layer.call.function, layer.call.edges)
        self.function = _Call(layer.call.function) if layer.weighted is None else _FoldedOp(layer.weighted)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = [
            mark_input(x, self._name, index) if is_marked else x
            for index, (x, is_marked) in enumerate(zip(self._places.inputs(args, kwargs), self._marked, strict=True))
        ]
        args, kwargs = self._places.substitute(args, kwargs, values)
        result = self.function(*args, **kwargs)
        return _mark_result(result, self._name) if any(self._marked) else result


def _mark_result(result: Any, layer: str) -> Any:
    if isinstance(result, Tensor):
        return mark_output(result, layer)
    if isinstance(result, Sequence):
        return type(result)([_mark_result(result[0], layer), *result[1:]]) if type(result) in (list, tuple) else result
    return result


def _attribute(model: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    return getattr(model.get_submodule(path), name)


def _set_attribute(root: nn.Module, target: str, value: Any) -> None:
    *path, name = target.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)
