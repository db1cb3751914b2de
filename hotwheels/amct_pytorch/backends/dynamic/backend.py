"""DynamicBackend: names the layers of a model by module paths, reads its graph from ONNX, quantizes it in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...capacity import Capacity
from ...errors import UnsupportedModelError
from ...graph import OpGraph
from ...log import get_logger
from ...nn.norm_chain import BatchNormStage
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from ...ops.registry import Registry
from ...plan.planner import folded_batch_norm
from ...plan.quant_plan import QuantPlan
from .placer import LayerContainer, place_layers
from .read.candidates import find_candidates
from .read.export import export_marked
from .read.float_forward import FloatForward
from .read.float_model import Fold, finish_float_model
from .read.graph import Fusion, build_graph
from .read.model_copy import copy_model

_log = get_logger(__name__)


class DynamicBackend:
    """One model on its way to its quantized form. Works on a copy, which it exports to ONNX once."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        capacity: Capacity,
        export_setting: Mapping[str, Any] | None = None,
    ) -> None:
        """Copies and exports ``model``, called with the positional ``inputs``.

        ``export_setting`` holds ``input_names``, ``output_names`` and ``dynamic_axes``, None where the user says
        nothing.

        Raises:
          UnsupportedModelError: The model is quantized already, or ``inputs`` holds no tensor.
          ExportError: It cannot be exported to ONNX.
        """
        if any(isinstance(module, QuantizedLayer) for module in model.modules()):
            raise UnsupportedModelError("The model is quantized already. Pass the float model.")
        self._registry = Registry(capacity)
        self._inputs = inputs
        self._model = copy_model(model)
        self._candidates = find_candidates(self._model, self._registry, capacity)
        for candidate in self._candidates.values():
            _make_out_of_place(candidate.module)
        self._export = export_marked(self._model, self._candidates, inputs, export_setting or {})
        _report_reused(self._export.calls)

    def calls(self, path: str) -> int:
        """Returns how often the model calls the module at ``path``."""
        return self._export.calls[path]

    def graph(self, fusion: Fusion | None = None) -> OpGraph:
        """Returns the operations of the model; which BatchNorms are layers depends on ``fusion``."""
        return build_graph(self._export, self._candidates, self._registry, fusion or Fusion())

    def place(self, plan: QuantPlan, *, updates_batch_norms: bool = False) -> tuple[nn.Module, LayerContainer]:
        """Returns the quantized model and its layers; see `place_layers`. Uses up the copy."""
        layers = place_layers(self._model, plan, self._candidates, updates_batch_norms=updates_batch_norms)
        return self._model, layers

    def folds(self, graph: OpGraph) -> tuple[Fold, ...]:
        """Returns the convolutions of ``graph``, quantized or not, with the BatchNorms folded into them."""
        pairs = ((node, folded_batch_norm(graph, node)) for node in graph)
        return tuple(self._fold(node.name, norm) for node, norm in pairs if norm is not None)

    def standing_norms(self, folds: tuple[Fold, ...]) -> dict[str, nn.Module]:
        """Returns the BatchNorms which are not in ``folds``, by the names of their nodes: one for each call."""
        folded = {fold.norm for fold in folds}
        paths = {name: path for name, path in self._export.paths.items() if name in self._export.sites}
        modules = {name: self._candidates[path].module for name, path in paths.items()}
        return {name: one for name, one in modules.items() if isinstance(one, _BatchNorm) and name not in folded}

    def float_model(
        self, plan: QuantPlan, folds: tuple[Fold, ...], settings: Mapping[str, object] | None = None
    ) -> ir.Model:
        """Returns the float model as ONNX with BatchNorms folded, and the sites of the planned layers. Uses it up."""
        finish_float_model(self._export.model, folds, plan.layers.keys(), settings or {})
        return self._export.model

    def float_forward(self, folds: tuple[Fold, ...]) -> FloatForward:
        """Returns what the model of `float_model`, with these ``folds``, has to compute. Only before `place`."""
        modules = {path: one.module for path, one in self._candidates.items()}
        return FloatForward(self._model, self._inputs, self._export, modules, folds)

    def _fold(self, conv: str, norm: str) -> Fold:
        candidate = self._candidates[conv]
        role = candidate.op.role
        op = WeightedOp(candidate.module, role, (BatchNormStage(self._candidates[norm].module),))
        return Fold(conv=conv, norm=norm, op=op, role=role, batch_norm=self._candidates[norm].module)


def _make_out_of_place(module: Any) -> None:
    """An operation on a quantized input must not change it: its siblings read it, too."""
    if getattr(module, "inplace", False):
        module.inplace = False


def _report_reused(calls: Mapping[str, int]) -> None:
    for path, count in calls.items():
        if count > 1:
            _log.warning(
                "Module '%s' is called %d times and is not quantized. Define one module for each use.", path, count
            )
