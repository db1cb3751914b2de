"""The settings of a layer that no document says anything about (spec 8.4)."""

from __future__ import annotations

from collections.abc import Mapping

from ...capacity import Capacity
from ...graph import OpNode
from ...ops.desc import OpDesc, Role
from .quant_config import LayerConfig, QuantizerConfig

# The capacity table names classes; these are the roles whose weights it speaks of.
_CLASS_OF: Mapping[Role, str] = {
    Role.CONV: "Conv2d",
    Role.CONV_TRANSPOSE: "ConvTranspose2d",
    Role.LINEAR: "Linear",
}


def default_layer(node: OpNode, capacity: Capacity) -> LayerConfig:
    """Returns the default settings of a quantizable node, with one activation entry per quantizable input."""
    assert node.op is not None, f"'{node.name}' is not quantizable"
    return LayerConfig(
        quant_enable=node.op.is_default_enabled and node.is_default_enabled and not _is_default_off(node, capacity),
        activations=tuple(_activation(node, node.op) for _ in node.edges),
        weight=_weight(node.op, capacity) if node.op.has_weight else None,
    )


def is_channel_wise(op: OpDesc, capacity: Capacity) -> bool:
    """Whether the weight of an operation has one scale per output channel if nothing else is said (spec 6.1)."""
    return _CLASS_OF.get(op.role) in capacity.channel_wise_types


def _is_default_off(node: OpNode, capacity: Capacity) -> bool:
    return node.type.rpartition(".")[2] in capacity.not_default_quant_types


def _activation(node: OpNode, op: OpDesc) -> QuantizerConfig:
    if op.role is Role.MATMUL:  # the converter takes matmul only without offset (spec 5.4)
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


def _weight(op: OpDesc, capacity: Capacity) -> QuantizerConfig:
    args = {"observer": "ArqObserver", "num_bits": 8, "channel_wise": is_channel_wise(op, capacity)}
    return QuantizerConfig("ArqWeightFakeQuantize", args)
