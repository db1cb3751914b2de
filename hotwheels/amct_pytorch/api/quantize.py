"""Makes quantized models which know what they were made from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..backends.fx.backend import FxBackend
from ..backends.fx.quant_graph_module import Origin, QuantGraphModule
from ..capacity import read_capacity
from ..config.expand import expand
from ..config.json_config import check_any_enabled
from ..config.quant_config import QuantConfig
from ..graph import OpGraph
from ..nn.mode import Mode
from ..ops.registry import Registry
from ..plan.planner import make_plan
from ..plan.quant_plan import QuantPlan
from .kept_state import copies_of


def place_layers(backend: FxBackend, graph: OpGraph, config: QuantConfig, plan: QuantPlan) -> QuantGraphModule:
    """Returns the quantized model, in float mode. Uses up the trace of ``backend``, whose ``graph`` it is."""
    model = backend.configured(graph, config)
    advice = backend.advice(model)
    quantized = backend.place(plan)
    quantized.origin = Origin(model, advice)
    return quantized


@torch.no_grad()
def default_quantized_copy(model: nn.Module, inputs: tuple[Any, ...]) -> QuantGraphModule:
    """Returns ``model`` with its default configuration, whose observers are content with one batch: ``inputs``."""
    capacity = read_capacity()
    backend = FxBackend(model, Registry(capacity))
    graph = backend.graph()
    config = expand(graph, None, capacity)
    check_any_enabled(config)
    quantized = place_layers(backend, graph, config, make_plan(graph, config)).eval()
    quantized.mode = Mode.CALIBRATION
    quantized(*copies_of(inputs))
    return quantized
