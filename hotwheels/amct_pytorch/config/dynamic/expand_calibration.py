"""SimpleCalibrationConfig -> CalibrationConfig: the settings of every layer (spec 9.2, 9.4). Pure, reads no file."""

from __future__ import annotations

import dataclasses

from ...graph import OpGraph
from .calibration_config import CalibrationConfig, calibration_context, report_unknown_fusion_layers
from .expand_dynamic import expand_layers
from .simple_cfg import SimpleCalibrationConfig


def expand_calibration(graph: OpGraph, simple: SimpleCalibrationConfig | None) -> CalibrationConfig:
    """Returns an entry for every quantizable layer, in graph order; None for ``simple`` gives the defaults.

    What matches nothing is said in a WARNING. Values are checked only where they are applied to a layer that is on.

    Raises:
      ConfigError: A value is wrong.
    """
    simple = simple or SimpleCalibrationConfig()
    report_unknown_fusion_layers(simple.skip_fusion_layers, graph, simple.source)
    config = CalibrationConfig(
        batch_num=simple.batch_num,
        activation_offset=simple.activation_offset,
        do_fusion=simple.do_fusion,
        skip_fusion_layers=simple.skip_fusion_layers,
        update_bn=simple.update_bn,
        bn_update_config=simple.bn_update_config,
    )
    context = calibration_context(config, graph, simple.source)
    return dataclasses.replace(config, layers=expand_layers(simple, context))
