"""The float ONNX model of the dynamic path: BatchNorms folded, with the sites of quantized layers only (spec 3)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ....core.channels import from_output_first
from ....errors import ExportError
from ....nn.unit_axis import as_image
from ....nn.weighted_op import WeightedOp
from ....onnx_io.initializers import add_initializer, remove_unused_initializers
from ....onnx_io.layer_sites import read_sites, write_sites
from ....onnx_io.node_access import graph_of
from ....ops.desc import Role
from ...torchscript.exporter_leftovers import bypass

SETTINGS_KEY = "amct.dynamic.v1"  # metadata by which save_model knows the files of quantize_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold:
    """A convolution or Linear and the BatchNorm folded into it.

    Attributes:
      conv: Layer name of the convolution.
      calls: For each call of the two modules the names of both nodes, convolution first.
      op: Convolution and BatchNorm as one operation.
      role: CONV or CONV_TRANSPOSE.
      batch_norm: The BatchNorm.
    """

    conv: str
    calls: tuple[tuple[str, str], ...]
    op: WeightedOp
    role: Role
    batch_norm: nn.Module

    @property
    def module(self) -> nn.Module:
        """The convolution."""
        module: nn.Module = self.op.module
        return module


def finish_float_model(
    model: ir.Model, folds: Collection[Fold], uses: Collection[str], settings: Mapping[str, object]
) -> None:
    """Folds the BatchNorms of ``model``, keeps only the sites named in ``uses`` and stores ``settings``, in place."""
    nodes = {str(node.name): node for node in model.graph}
    for fold in folds:
        write_folded([nodes[conv] for conv, _ in fold.calls], *fold.op.folded(), fold)
        for _, norm in fold.calls:
            bypass(nodes[norm])
    remove_unused_initializers(model.graph)
    write_sites(model, {name: site for name, site in read_sites(model).items() if name in uses})
    model.metadata_props[SETTINGS_KEY] = json.dumps(dict(settings))


def read_settings(model: ir.Model, path: object) -> dict[str, object]:
    """Returns the settings that `finish_float_model` stored; ExportError if the model in file ``path`` has none."""
    text = model.metadata_props.get(SETTINGS_KEY)
    if text is None:
        raise ExportError(
            f"'{path}' was not made by quantize_model (or create_quant_retrain_model): it has no metadata"
            f" '{SETTINGS_KEY}'. Pass the file which that call wrote as modfied_onnx_file."
        )
    settings: dict[str, object] = json.loads(text)
    return settings


def refold(model: ir.Model, folds: Collection[Fold]) -> None:
    """Writes weights with the present BatchNorm statistics into the folded nodes of ``model``, in place."""
    nodes = {str(node.name): node for node in model.graph}
    for fold in folds:
        lost = next((conv for conv, _ in fold.calls if conv not in nodes), None)
        if lost is not None:
            raise ExportError(f"Layer '{lost}': its node is not in the ONNX model.")
        write_folded([nodes[conv] for conv, _ in fold.calls], *fold.op.folded(), fold)
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


def write_folded(nodes: Sequence[ir.Node], weight: Tensor, bias: Tensor | None, fold: Fold) -> None:
    """Makes ``nodes`` use ``weight`` [C_out, ...] and ``bias``; other readers of the old initializers keep those."""
    groups = int(getattr(fold.module, "groups", 1))
    weight = as_image(from_output_first(weight, groups, fold.role is Role.CONV_TRANSPOSE), weight.dim() - 2)
    graph = graph_of(nodes[0])
    assert bias is not None, "a folded BatchNorm always leaves a bias"
    folded_weight = add_initializer(graph, f"{fold.conv}.folded.weight", _array(weight))
    folded_bias = add_initializer(graph, f"{fold.conv}.folded.bias", _array(bias))
    for node in nodes:
        if node.op_type == "MatMul":  # a Linear of a matrix without bias
            node.op_type = "Gemm"
            node.attributes.add(ir.AttrInt64("transB", 1))
        node.resize_inputs(3)
        node.replace_input_with(1, folded_weight)
        node.replace_input_with(2, folded_bias)


@torch.no_grad()
def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()
