"""The rules of a layer's kind for its quantizers: matmul, Linear, pairs of widths (spec 4.2, 5.4)."""

from __future__ import annotations

import dataclasses

from ...core.spec import SECOND_INPUT_BITS
from ...errors import ConfigError
from ...graph import OpNode
from ...log import get_logger
from ...ops.desc import OpDesc, Role
from ..arguments.algorithms import arguments_of
from ..arguments.quantizer_check import check_quantizer, is_custom, num_bits_of, observer_of
from .quant_config import LayerConfig, QuantizerConfig

# The sections of a layer in config.json; retraining on the dynamic path has other names.
ACTIVATION_PARAMS = "activation_quant_params"
WEIGHT_PARAMS = "weight_quant_params"

_log = get_logger(__name__)


def apply_rules(
    node: OpNode, layer: LayerConfig, where: str, keys: tuple[str, str] = (ACTIVATION_PARAMS, WEIGHT_PARAMS)
) -> LayerConfig:
    """Returns the checked and corrected settings of an enabled layer; returns a disabled layer unchanged.

    Messages begin with ``where``, e.g. ``Layer 'conv1' in config.json``; ``keys`` are the names of the layer's two
    sections there. A second call changes nothing more. Corrections give a WARNING.

    Raises:
      ConfigError: See `check_quantizer`; or the number of activation entries is not the number of quantizable inputs.
    """
    if not layer.quant_enable:
        return layer
    _check_count(node, layer, f"{where}: {keys[0]}")
    activations = tuple(
        check_quantizer(one, f"{where}, {keys[0]}[{index}]", is_weight=False)
        for index, one in enumerate(layer.activations)
    )
    weight = layer.weight and check_quantizer(layer.weight, f"{where}, {keys[1]}", is_weight=True)
    if node.op is not None and node.op.role is Role.MATMUL:
        activations = _for_matmul(node, activations, where)
    if weight and node.op is not None and not node.op.allows_channel_wise:
        weight = _per_tensor(node.op, weight, where)
    checked = dataclasses.replace(layer, activations=activations, weight=weight)
    _report_widths(node, checked, where)
    return checked


def _check_count(node: OpNode, layer: LayerConfig, where: str) -> None:
    if len(layer.activations) != len(node.edges):
        inputs = ", ".join(f"'{edge.argument}'" for edge in node.edges)
        msg = (
            f"{where} has {len(layer.activations)} entries, but the layer has "
            f"{len(node.edges)} quantizable inputs ({inputs}). Give one entry for each, or one object for all."
        )
        raise ConfigError(msg)


def _for_matmul(node: OpNode, activations: tuple[QuantizerConfig, ...], where: str) -> tuple[QuantizerConfig, ...]:
    """Returns the settings of a matmul's inputs: all without offset, a second or constant input in 8 bits."""
    fixed = [_symmetric(one, f"{where}, input {index}") for index, one in enumerate(activations)]
    for index, (one, edge) in enumerate(zip(fixed, node.edges, strict=True)):
        bits = num_bits_of(one, is_weight=False)
        if (index or edge.is_constant) and bits not in (SECOND_INPUT_BITS, None):
            kind = "second" if index else "constant"
            _log.warning_of_place(where, f"num_bits of the {kind} matmul input is {bits}; only 8 is possible and used.")
            fixed[index] = _with(one, num_bits=SECOND_INPUT_BITS)
    return tuple(fixed)


def as_symmetric(config: QuantizerConfig) -> QuantizerConfig:
    """Returns a checked ``config`` with offset 0; for quantizers of this package that have no fixed grid."""
    if is_symmetric(config):
        return config
    config = _with(config, with_offset=False)
    if "qscheme" in config.args:
        config = _with(config, qscheme="symmetric")
    return _with(config, fixed_min=False) if config.args.get("fixed_min") else config


def _symmetric(config: QuantizerConfig, where: str) -> QuantizerConfig:
    if is_custom(config.quantizer) or is_symmetric(config):
        return config
    if config.quantizer == "FixedFakeQuantize":
        found = config.args["zero_point"]
        raise ConfigError(f"{where}: zero_point is {found}; inputs of a matmul have no offset, only 0 is allowed.")
    _log.warning_of_place(where, "inputs of a matmul have no offset; with_offset false is used.")
    return as_symmetric(config)


def is_symmetric(config: QuantizerConfig) -> bool:
    """Whether a checked ``config`` of a quantizer of this package always gives offset 0."""
    args = config.args
    if config.quantizer == "FixedFakeQuantize":
        return bool(args["zero_point"] == 0)
    if args.get("fixed_min"):
        return False
    scheme_default = "symmetric" if observer_of(config) == "LuqMseObserver" else None
    return args.get("with_offset") is False or args.get("qscheme", scheme_default) == "symmetric"


def _per_tensor(op: OpDesc, weight: QuantizerConfig, where: str) -> QuantizerConfig:
    """Returns the weight's settings with one scale: for a Linear (spec 6.1), or a type not in CHANNEL_WISE_TYPES."""
    if is_custom(weight.quantizer) or "channel_wise" not in arguments_of(weight.quantizer, is_weight=True):
        return weight
    if weight.args.get("channel_wise"):
        reason = "a Linear has no channels" if op.role is Role.LINEAR else "CHANNEL_WISE_TYPES does not list the type"
        _log.warning_of_place(where, f"channel_wise is true, but {reason}; false is used.")
    return _with(weight, channel_wise=False)


def _report_widths(node: OpNode, layer: LayerConfig, where: str) -> None:
    """Logs a WARNING for pairs of widths that the hardware does not compute; they are applied anyway (spec 4.2)."""
    data_bits, weight_bits = _widths(node, layer)
    for bits in data_bits:
        if bits is None or weight_bits is None:
            continue
        needed = 8 if bits > 8 else 4 if bits == 4 else weight_bits
        if weight_bits != needed:
            _log.warning_of_place(
                where,
                f"activations of {bits} bits need weights of {needed} bits, found {weight_bits}; the hardware may not"
                " compute it.",
            )


def _widths(node: OpNode, layer: LayerConfig) -> tuple[list[int | None], int | None]:
    """Returns the widths of the activations and of the weight; the second input of a matmul counts as its weight."""
    bits = [num_bits_of(one, is_weight=False) for one in layer.activations]
    if layer.weight is not None:
        return bits, num_bits_of(layer.weight, is_weight=True)
    if node.op is not None and node.op.role is Role.MATMUL and len(bits) > 1:
        return bits[:1], bits[1]
    return bits, None


def _with(config: QuantizerConfig, **args: object) -> QuantizerConfig:
    return QuantizerConfig(config.quantizer, {**config.args, **args})
