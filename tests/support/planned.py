"""A traced model with its default configuration, and changes of that configuration."""

from __future__ import annotations

import dataclasses

from torch import nn

from hotwheels.amct_pytorch.backends.fx.read.graph import build_graph
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.layers.quant_config import QuantConfig
from hotwheels.amct_pytorch.graph import OpGraph
from hotwheels.amct_pytorch.ops.registry import Registry


def planned_graph(model: nn.Module) -> tuple[OpGraph, QuantConfig]:
    registry = Registry()
    graph = build_graph(trace(model.eval(), registry.leaf_packages), registry)
    return graph, expand(graph, None)


def changed(config: QuantConfig, layer: str, **values: object) -> QuantConfig:
    return QuantConfig({**config.layers, layer: dataclasses.replace(config.layers[layer], **values)})
