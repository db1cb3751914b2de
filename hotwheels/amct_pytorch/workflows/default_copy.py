"""A float model, quantized and calibrated by default: for analyses that are given no quantized one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..backends.fx.backend import FxBackend
from ..backends.fx.quant_graph_module import QuantGraphModule
from ..config.fx.expand import expand
from ..config.fx.json_config import check_any_enabled
from ..nn.mode import Mode
from ..ops.registry import Registry
from ..plan.planner import make_plan
from .kept_state import copies_of


@torch.no_grad()
def default_quantized_copy(model: nn.Module, inputs: tuple[Any, ...]) -> QuantGraphModule:
    """Returns ``model`` with its default configuration, whose observers are content with one batch: ``inputs``."""
    backend = FxBackend(model, Registry(), inputs=inputs)
    graph = backend.graph()
    config = expand(graph, None)
    check_any_enabled(config)
    quantized = backend.place(make_plan(graph, config), backend.origin(graph, config)).eval()
    quantized.mode = Mode.CALIBRATION
    quantized(*copies_of(inputs))
    return quantized
