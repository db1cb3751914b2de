"""What the log says of the stages of the FX path: INFO a line per stage, DEBUG one per layer and stage (spec 1.5)."""

from __future__ import annotations

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..log import get_logger
from ..nn.quantized_layer import QuantizedLayer
from ..plan.quant_plan import QuantPlan
from ..quantizers.quantizer import Quantizer
from ..record import Record

_log = get_logger(__name__)


def tell_folds(plan: QuantPlan) -> None:
    """Says which nodes are computed by the layers in front of them or behind them."""
    folded = {layer.name: (*layer.folded.front, *layer.folded.behind) for layer in plan.layers.values()}
    for name, nodes in folded.items():
        if nodes:
            _log.debug("Layer '%s': %s folded into it.", name, ", ".join(f"'{one}'" for one in nodes))
    count = sum(map(len, folded.values()))
    _log.info("Fold: %d nodes are folded into %d layers.", count, sum(1 for nodes in folded.values() if nodes))


def tell_placed(quantized: QuantGraphModule) -> None:
    """Says which layers got quantizers."""
    layers = quantized.quantized_layers
    for name, layer in layers.items():
        _log.debug("Layer '%s': %s", name, _settings(layer))
    weighted = sum(1 for layer in layers.values() if layer.weight is not None)
    _log.info("Weights: quantizers are placed on %d layers, %d of them with weights.", len(layers), weighted)


def tell_record(record: Record) -> None:
    """Says which grids are saved."""
    for name, layer in record.layers.items():
        inputs = (
            f"input {one.index} {one.num_bits} bits, scale {one.scale:.6g}, offset {one.offset}"
            for one in layer.activations
        )
        weight = (
            [] if layer.weight is None else [f"weight {layer.weight.num_bits} bits, {len(layer.weight.scale)} scales"]
        )
        _log.debug("Layer '%s': saved with %s.", name, "; ".join([*inputs, *weight]))


def _settings(layer: QuantizedLayer) -> str:
    quantizers: dict[str, Quantizer] = {f"input {index}": one for index, one in enumerate(layer.activation)}
    if layer.weight is not None:
        quantizers["weight"] = layer.weight
    return "; ".join(f"{what} {type(one).__name__}, {one.num_bits} bits" for what, one in quantizers.items())
