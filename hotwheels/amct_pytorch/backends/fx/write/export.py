"""Writes the float model of a quantized graph as ONNX (spec 11.3, 11.6)."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
from torch import Tensor, fx

from ....errors import ExportError
from ....log import get_logger
from ....onnx_io.opset import DEFAULT_OPSET, OpsetTooLow
from ....torch_private import pytree
from ...batches.export_names import input_names, report_unused_axes
from ...layers.folded_op import FoldedOp
from ...torchscript.baked_values import report_baked
from ...user_model.model_state import unchanged
from ...writer.example import DynamicAxis, Example, dynamic_axes_of, without_fixed
from ...writer.shape_example import NeedsData, ShapeExample
from .example_call import ExampleCall
from .flat_reference import FlatReference
from .write_graph import GraphWalk

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WrittenModel:
    """A float model that was written.

    Attributes:
      model: The model, with the sites of its layers.
      reference: The results that the model has to compute.
      has_exported_calls: Whether torch's exporter has written some of its nodes.
    """

    model: ir.Model
    reference: FlatReference
    has_exported_calls: bool = False


def write_float_model(module: fx.GraphModule, example: ExampleCall, setting: dict[str, Any]) -> WrittenModel:
    """Returns the flat float graph ``module`` as an ONNX model.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without ``opset_version``, the lowest opset from 13 on
    that has all operations is used.

    Raises:
      ExportError: The example call fails, or an operation has no ONNX form.
    """
    opset = setting.get("opset_version", DEFAULT_OPSET)
    while True:
        try:
            return _write(module, example, setting, opset)
        except OpsetTooLow as error:
            if "opset_version" in setting:
                raise ExportError(f"The model cannot be exported to ONNX: {error}") from error
            _log.debug("Opset %d is taken: %s", error.opset, error)
            opset = error.opset


def _write(module: fx.GraphModule, call: ExampleCall, setting: dict[str, Any], opset: int) -> WrittenModel:
    """Writes at ``opset``; a dynamic axis for which the files would be wrong becomes static, with a WARNING."""
    tensors = [leaf for leaf in pytree.tree_leaves(call.inputs) if isinstance(leaf, Tensor)]
    names = input_names(setting.get("input_names"), call.names)
    given = dict(zip(names, tensors, strict=True))
    wanted = setting.get("dynamic_axes") or {}
    axes = dynamic_axes_of(given, wanted)
    while True:
        walk, model = _walked(module, call, setting, opset, given, axes)
        if not walk.fixed:
            report_baked(walk.baked)
            if walk.data_reads:
                _log.warning("Numbers made of data are constants in the files: %s.", "; ".join(walk.data_reads))
            report_unused_axes(wanted, names, [str(one.name) for one in model.graph.outputs])
            reference = FlatReference(module, call.inputs, walk.value_names())
            return WrittenModel(model=model, reference=reference, has_exported_calls=walk.has_exported_calls)
        axes = without_fixed(axes, walk.fixed)


def _walked(
    module: fx.GraphModule,
    call: ExampleCall,
    setting: dict[str, Any],
    opset: int,
    given: dict[str, Tensor],
    axes: list[DynamicAxis],
) -> tuple[GraphWalk, ir.Model]:
    """Returns the finished walk and its model; only a graph that needs data for that is run with the user's tensors."""
    if axes:
        from ...writer.symbolic_example import SymbolicExample  # here, because symbols cost three seconds of import

        _keep_weights(module)
        walk = GraphWalk(module, SymbolicExample(given, axes), opset)
        return walk, _run(walk, call, setting)
    try:
        walk = GraphWalk(module, ShapeExample(given), opset)
        return walk, _run(walk, call, setting)
    except (NeedsData, ExportError) as error:  # errors of calls that find no data; the run with data has the last word
        _log.debug("The graph is run with data to write it: %s", error)
    _keep_weights(module)
    walk = GraphWalk(module, Example(given), opset)
    return walk, _run(walk, call, setting)


def _keep_weights(module: fx.GraphModule) -> None:
    for one in module.modules():
        if isinstance(one, FoldedOp):
            one.keep_weight()


def _run(walk: GraphWalk, call: ExampleCall, setting: dict[str, Any]) -> ir.Model:
    try:
        with unchanged(walk.module) as state:
            written = walk.write(call.inputs, setting.get("output_names"))
            changed = state.changed_buffers()
    except ExportError as error:
        error.args = (_text(error), *error.args[1:])
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ExportError(f"The model cannot be exported to ONNX with this input_data: {_text(error)}") from error
    if changed:
        _log.warning(
            "The forward changes its buffers (%s). Files hold one call, which starts with their present values.",
            ", ".join(f"'{name}'" for name in changed),
        )
    return written


def _text(error: Exception) -> str:
    """Returns the text of ``error`` without what torch.fx adds on its tool for another kind of graph."""
    return str(error).partition("\nUse tlparse")[0]
