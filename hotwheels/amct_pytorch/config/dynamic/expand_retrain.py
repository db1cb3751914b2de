"""SimpleRetrainConfig -> RetrainConfig: the settings of every layer (spec 9.3, 9.5). Pure, reads no file."""

from __future__ import annotations

import dataclasses

from ...graph import OpGraph
from .expand_dynamic import expand_layers
from .retrain_config import RetrainConfig, retrain_context
from .simple_cfg import SimpleRetrainConfig


def expand_retrain(graph: OpGraph, simple: SimpleRetrainConfig | None) -> RetrainConfig:
    """Returns an entry for every quantizable layer, in graph order; None for ``simple`` gives the defaults.

    What matches nothing is said in a WARNING. Values are checked only where they are applied to a layer that is on.

    Raises:
      ConfigError: A value is wrong.
    """
    simple = simple or SimpleRetrainConfig()
    config = RetrainConfig(batch_num=simple.batch_num)
    context = retrain_context(config, graph, simple.source)
    return dataclasses.replace(config, layers=expand_layers(simple, context))
