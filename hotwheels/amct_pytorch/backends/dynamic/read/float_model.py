"""The float ONNX model of the dynamic path: BatchNorms folded, with the sites of quantized layers only (spec 3)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ....core.channels import from_output_first
from ....errors import ExportError
from ....nn.unit_axis import as_image
from ....nn.weighted_op import WeightedOp
from ....onnx_io.initializers import add_initializer, remove_unused_initializers
from ....onnx_io.layer_sites import LayerSite, read_sites, write_sites
from ....onnx_io.node_access import graph_of, operand, readers, result
from ....ops.desc import Role
from ...torchscript.exporter_leftovers import bypass

SETTINGS_KEY = "amct.dynamic.v1"  # metadata by which save_model knows the files of quantize_model


@dataclasses.dataclass(frozen=True)
class FoldedCall:
    """One call of a layer with a weight, with the nodes that are folded into it.

    Attributes:
      layer: Name of the call.
      front: Names of the folded calls in front of it.
      behind: Names of the folded calls behind it.
    """

    layer: str
    front: tuple[str, ...]
    behind: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """All folded calls."""
        return (*self.front, *self.behind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold:
    """A layer with a weight and the modules folded into it.

    Attributes:
      layer: Name of the layer.
      calls: The calls of the layer.
      op: The operation with all that is folded into it.
      role: CONV, CONV_TRANSPOSE or LINEAR.
      batch_norms: The user's BatchNorms among the modules.
    """

    layer: str
    calls: tuple[FoldedCall, ...]
    op: WeightedOp
    role: Role
    batch_norms: tuple[nn.Module, ...]

    @property
    def module(self) -> nn.Module:
        """The module of the layer."""
        module: nn.Module = self.op.module
        return module


def finish_float_model(
    model: ir.Model, folds: Collection[Fold], uses: Collection[str], settings: Mapping[str, object]
) -> None:
    """Folds the members of ``folds`` in ``model``, keeps only the sites ``uses`` and stores ``settings``, in place."""
    sites = read_sites(model)
    for fold in folds:
        write_folded(model, fold)
        sites |= {call.layer: _with_add(model, sites[call.layer]) for call in fold.calls}
        for name in (name for call in fold.calls for name in call.members):
            _bypass(model, sites.pop(name))
    remove_unused_initializers(model.graph)
    write_sites(model, {name: site for name, site in sites.items() if name in uses})
    model.metadata_props[SETTINGS_KEY] = json.dumps(dict(settings))


def _with_add(model: ir.Model, site: LayerSite) -> LayerSite:
    """Returns ``site`` with the node that `write_folded` may have added."""
    added = {str(node.name) for node in model.graph} & {added_name(name) for name in site.nodes}
    return dataclasses.replace(site, nodes=tuple(dict.fromkeys((*site.nodes, *sorted(added)))))


def _bypass(model: ir.Model, site: LayerSite) -> None:
    """Removes the nodes of ``site``, so that readers of its result read its input."""
    nodes = {str(node.name): node for node in model.graph}
    *others, last = (nodes[name] for name in site.nodes)
    first, at = site.inputs[0][0]
    value = operand(nodes[first], at)
    last.op_type = "Identity"
    last.attributes.clear()
    last.resize_inputs(1)
    last.replace_input_with(0, value)
    bypass(last)
    for node in reversed(others):
        model.graph.remove(node, safe=True)


_NO_FORMS: Mapping[str, type] = MappingProxyType({})


def read_settings(model: ir.Model, path: object, forms: Mapping[str, type] = _NO_FORMS) -> dict[str, Any]:
    """Returns the settings that `finish_float_model` stored: flags, lists of names, and names by names.

    Args:
      model: The float model.
      path: Its file.
      forms: The type of each setting that must have one, by key.

    Raises:
      ExportError: The model in file ``path`` has none, or they are damaged.
    """
    text = model.metadata_props.get(SETTINGS_KEY)
    if text is None:
        raise ExportError(
            f"'{path}' was not made by quantize_model (or create_quant_retrain_model): it has no metadata"
            f" '{SETTINGS_KEY}'. Pass the file which that call wrote as modfied_onnx_file."
        )
    try:
        settings: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"'{path}': the metadata '{SETTINGS_KEY}' is damaged: {error!r}.") from error
    is_well_formed = isinstance(settings, dict) and all(
        _is_setting(value) and isinstance(value, forms.get(key, object)) for key, value in settings.items()
    )
    if not is_well_formed:
        raise ExportError(f"'{path}': the metadata '{SETTINGS_KEY}' is damaged: it is {text!r:.80}.")
    return settings


def _is_setting(value: object) -> bool:
    names = value if isinstance(value, list) else [*value.values()] if isinstance(value, dict) else None
    return isinstance(value, bool | int) if names is None else all(isinstance(one, str) for one in names)


def refold(model: ir.Model, folds: Collection[Fold]) -> None:
    """Writes weights with the present BatchNorm statistics into the folded nodes of ``model``, in place."""
    nodes = {str(node.name) for node in model.graph}
    for fold in folds:
        lost = next((call.layer for call in fold.calls if call.layer not in nodes), None)
        if lost is not None:
            raise ExportError(f"Layer '{lost}': its node is not in the ONNX model.")
        write_folded(model, fold)
    remove_unused_initializers(model.graph)


def write_normalization(model: ir.Model, norms: Mapping[str, nn.Module]) -> None:
    """Writes the present values of the modules ``norms`` into the BatchNormalization nodes of these names."""
    nodes = {str(node.name): node for node in model.graph}
    for name, norm in norms.items():
        if name not in nodes:
            raise ExportError(f"Layer '{name}': its node is not in the ONNX model.")
        # The nodes share initializers that were equal when they were exported, so each gets its own.
        for position, field in enumerate(("weight", "bias", "running_mean", "running_var"), start=1):
            if (value := getattr(norm, field)) is not None:
                array = _array(value).copy()  # later training of the module must not change the file
                initializer = add_initializer(graph_of(nodes[name]), f"{name}.updated.{field}", array)
                nodes[name].replace_input_with(position, initializer)
    remove_unused_initializers(model.graph)


def write_folded(model: ir.Model, fold: Fold) -> None:
    """Makes the nodes of ``fold`` use its weight [C_out, ...] and bias; other readers of the old values keep those.

    The calls of a Linear of more than two dimensions (MatMul) get an Add for the bias if they have none.
    """
    weight, bias = fold.op.folded()
    groups = int(getattr(fold.module, "groups", 1))
    weight = as_image(from_output_first(weight, groups, fold.role is Role.CONV_TRANSPOSE), weight.dim() - 2)
    name = f"{fold.layer}.folded.weight"
    folded_weight = add_initializer(model.graph, name, _array(weight))
    folded_bias = None if bias is None else add_initializer(model.graph, f"{fold.layer}.folded.bias", _array(bias))
    transposed: ir.Value | None = None
    nodes = {str(node.name): node for node in model.graph}
    for node in (nodes[call.layer] for call in fold.calls):
        if node.op_type == "MatMul" and operand(node, 0).shape is not None and len(operand(node, 0).shape or ()) == 2:
            node.op_type = "Gemm"  # a Linear of a matrix without bias
            node.attributes.add(ir.AttrInt64("transB", 1))
        if node.op_type == "MatMul":
            transposed = transposed or add_initializer(model.graph, f"{name}_transposed", _array(weight.t()))
            node.replace_input_with(1, transposed)
            if folded_bias is not None:
                _add(node, folded_bias)
        else:
            node.replace_input_with(1, folded_weight)
            if folded_bias is not None:
                node.resize_inputs(3)
                node.replace_input_with(2, folded_bias)


def _add(matmul: ir.Node, bias: ir.Value) -> None:
    """Adds ``bias`` to the result of ``matmul``: in the Add of a Linear, or in a new one, ``<layer>/Add``."""
    result_of = result(matmul)
    name = added_name(str(matmul.name))
    present = next((one for one in readers(matmul) if one.op_type == "Add" and str(one.name).startswith(name)), None)
    if present is not None:
        present.replace_input_with(1 if operand(present, 0) is result_of else 0, bias)
        return
    is_output, old_name = result_of.is_graph_output(), result_of.name
    add = ir.node("Add", [result_of, bias], name=name)
    result(add).type, result(add).shape, result(add).name = result_of.type, result_of.shape, f"{old_name}_biased"
    ir.convenience.replace_all_uses_with(result_of, result(add), replace_graph_outputs=True)
    add.replace_input_with(0, result_of)
    graph_of(matmul).insert_after(matmul, add)
    if is_output:
        result_of.name, result(add).name = f"{old_name}_product", old_name


def added_name(layer: str) -> str:
    """Returns the name of the node that adds the bias to the product of the Linear ``layer``."""
    return f"{layer}/Add"


@torch.no_grad()
def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()
