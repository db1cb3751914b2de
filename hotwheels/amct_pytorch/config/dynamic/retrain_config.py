"""RetrainConfig: the config.json of quantization-aware training on the dynamic path (spec 9.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from ...files import PathLike, write_text_atomic
from ...graph import OpGraph, OpNode
from ..arguments.coercion import as_object
from ..document_kind import TRAINING_DOCUMENT, check_document_kind
from ..files.tolerant_json import dump_json, read_json
from ..layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from .document_globals import BATCH_NUM, RETRAIN_SECTIONS, VERSION, read_global
from .layer_dialect import Dialect, TensorKeys
from .layer_document import LayerContext, is_matmul, layer_document, read_layers, to_quantizers

_CLUSTERING = ("clip_max", "cluster_freq", "max_iteration", "min_distance")

RETRAIN = Dialect(
    switch="retrain_enable",
    activation=TensorKeys(
        section=RETRAIN_SECTIONS[0],
        algorithm="algo",
        algorithms={
            "luq_quantize": ("num_bits",),
            "ulq_quantize": ("num_bits", "fixed_min"),
            "fixed_quant_param_retrain": ("num_bits", "zero_point"),
        },
    ),
    weight=TensorKeys(
        section=RETRAIN_SECTIONS[1],
        algorithm="algo",
        algorithms={
            "arq_retrain": ("num_bits", "channel_wise"),
            "lnq_retrain": ("num_bits", *_CLUSTERING, "channel_wise"),
        },
        is_weight=True,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """The content of the file.

    Attributes:
      version: Version of the format: 1.
      batch_num: Number of forwards that find the first ranges and, after training, export the factors; above 0.
      layers: One entry per layer, by name, in graph order: the content of the file with this package's names of classes
        and arguments. `to_quant_config` adds the arguments that follow from ``batch_num`` and the algorithm.
    """

    version: int = 1
    batch_num: int = 1
    layers: Mapping[str, LayerConfig] = dataclasses.field(default_factory=dict)


_GLOBALS = ("version", "batch_num")


def read_retrain_config(path: PathLike, graph: OpGraph) -> RetrainConfig:
    """Returns the checked configuration in ``path`` for the model ``graph``, layers in graph order.

    Missing entries, sections and arguments are treated as in `read_calibration_config`. ``fixed_min`` of ULQ is by
    default true if the input comes directly from a ReLU or ReLU6.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: Not JSON, a layer that the model does not have, or a wrong value.
    """
    document, source = as_object(read_json(path), f"The document in {path}"), str(path)
    check_document_kind(document, TRAINING_DOCUMENT, graph.nodes, source)
    config = RetrainConfig(
        version=read_global(VERSION, document, source), batch_num=read_global(BATCH_NUM, document, source)
    )
    entries = {name: entry for name, entry in document.items() if name not in _GLOBALS}
    context = retrain_context(config, graph, source)
    return dataclasses.replace(config, layers=read_layers(entries, context))


def write_retrain_config(config: RetrainConfig, path: PathLike) -> None:
    """Writes strict JSON: UTF-8, 4-space indent, the global settings, then one key per layer."""
    document: dict[str, Any] = {name: getattr(config, name) for name in _GLOBALS}
    layers = {name: layer_document(layer, RETRAIN) for name, layer in config.layers.items()}
    write_text_atomic(path, dump_json(document | layers))


def to_quant_config(config: RetrainConfig, graph: OpGraph) -> QuantConfig:
    """Returns the quantizers of every layer; ``config`` was read or expanded, and so checked, for ``graph``."""
    return to_quantizers(config.layers, graph, partial(_translated, config=config))


def retrain_context(config: RetrainConfig, graph: OpGraph, source: str) -> LayerContext:
    """Returns the context in which entries of layers are read and completed, with the global settings of ``config``."""
    translation = partial(_translated, config=config)
    return LayerContext(graph=graph, dialect=RETRAIN, translation=translation, source=source)


def _translated(node: OpNode, entry: QuantizerConfig, *, config: RetrainConfig) -> QuantizerConfig:
    added: dict[str, Any] = {}
    if entry.quantizer == "LuqActivationFakeQuantize":  # no batch_num: every calibration forward updates its range
        added = {"qscheme": "symmetric" if is_matmul(node) else "dynamic"}
    elif entry.quantizer == "UlqFakeQuantize":
        symmetry = {"with_offset": False} if is_matmul(node) else {}
        added = {"observer": "IFMRObserver", "batch_num": config.batch_num, **symmetry}
    return QuantizerConfig(entry.quantizer, {**entry.args, **added})
