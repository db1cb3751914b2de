"""The default settings of a layer, for which no document has an entry (spec 8.4)."""

from __future__ import annotations

from ...graph import OpNode
from ...ops.desc import OpDesc, Role
from .quant_config import LayerConfig, QuantizerConfig


def default_layer(node: OpNode) -> LayerConfig:
    """Returns the default settings of a quantizable node, with one activation entry per quantizable input."""
    assert node.op is not None, f"'{node.name}' is not quantizable"
    return LayerConfig(
        quant_enable=node.is_on_by_default,
        activations=tuple(_activation(node, node.op) for _ in node.edges),
        weight=_weight(node.op) if node.op.has_weight else None,
    )


def _activation(node: OpNode, op: OpDesc) -> QuantizerConfig:
    if op.role is Role.MATMUL:  # the converter accepts matmul only without offset (spec 5.4)
        args = {
            "num_bits": 8,
            "observer": "IFMRObserver",
            "batch_num": 1,
            "qscheme": "symmetric",
            "with_offset": False,
            "object_layer": node.layer,
        }
        return QuantizerConfig("LuqActivationFakeQuantize", args)
    args = {"num_bits": 8, "fixed_min": False, "observer": "IFMRObserver", "batch_num": 1, "object_layer": node.layer}
    return QuantizerConfig("UlqFakeQuantize", args)


def _weight(op: OpDesc) -> QuantizerConfig:
    args = {"observer": "ArqObserver", "num_bits": 8, "channel_wise": op.allows_channel_wise}
    return QuantizerConfig("ArqWeightFakeQuantize", args)
