"""Removes nodes of torch's TorchScript exporter that compute nothing.

    Constant() -> c               : c becomes an initializer
    Identity(x) -> y              : readers of y read x (the exporter writes one for each duplicated parameter)
    Cast(x) -> y to the type of x : the same
    Transpose(initializer) -> y   : y becomes an initializer (a Linear's weight that was not folded)
    Conv(auto_pad = SAME_*, VALID): the pads in numbers; onnxruntime accepts no auto_pad together with a dilation

So a value is an initializer if and only if it is known before the run.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ...onnx_io.initializers import add_initializer, constant_of, remove_unused_initializers
from ...onnx_io.node_access import graph_of, operand, result


def clean_exporter_leftovers(model: ir.Model) -> None:
    """Applies the rules above to ``model``, in place."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):
        if is_idle(node):
            bypass(node)
        elif _is_constant_transpose(node):
            _fold_transpose(node)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "" and node.op_type == "Conv" and "auto_pad" in node.attributes:
            _write_pads(node)
    remove_unused_initializers(model.graph)


def is_idle(node: ir.Node) -> bool:
    """Whether ``node`` returns its input unchanged: an Identity, or a Cast to the type of the input."""
    if node.domain != "" or node.op_type not in ("Identity", "Cast"):
        return False
    return node.op_type == "Identity" or operand(node, 0).dtype == node.attributes["to"].as_int()


def bypass(node: ir.Node) -> bool:
    """Removes the one-input ``node``: its readers read its input instead. Returns whether that was possible.

    It is not possible if the output is a graph output, and the input is a graph output too or is made by no node: each
    needs its own name, so a node must stay between them.
    """
    source, target = operand(node, 0), result(node)
    is_output, name = target.is_graph_output(), target.name
    if is_output and (source.is_graph_output() or source.producer() is None):
        return False
    source.type = source.type or target.type
    source.shape = source.shape or target.shape
    ir.convenience.replace_all_uses_with(target, source, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
    if is_output:
        source.name = name  # graph outputs keep their names
    return True


def _is_constant_transpose(node: ir.Node) -> bool:
    return (
        node.domain == ""
        and node.op_type == "Transpose"
        and constant_of(node.inputs[0]) is not None
        and not result(node).is_graph_output()
    )


def _fold_transpose(node: ir.Node) -> None:
    array = constant_of(node.inputs[0])
    assert array is not None
    transposed = np.ascontiguousarray(np.transpose(array, node.attributes.get_ints("perm")))
    folded = add_initializer(graph_of(node), str(result(node).name), transposed)
    ir.convenience.replace_all_uses_with(result(node), folded)
    graph_of(node).remove(node, safe=True)


def _write_pads(node: ir.Node) -> None:
    """Replaces ``auto_pad`` of a Conv by pads; torch has it with stride 1 only, so they do not depend on the image."""
    kind = node.attributes.pop("auto_pad").as_string()
    weight = operand(node, 1).shape
    if kind == "NOTSET" or weight is None:
        return
    kernel = [int(size) for size in weight[2:]]  # type: ignore[arg-type]
    dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
    totals = [0 if kind == "VALID" else (size - 1) * by for size, by in zip(kernel, dilations, strict=True)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = [*large, *small] if kind == "SAME_LOWER" else [*small, *large]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
