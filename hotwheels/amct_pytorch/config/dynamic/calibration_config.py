"""CalibrationConfig: the config.json of post-training quantization on the dynamic path (spec 9.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from ...errors import nearest_names
from ...files import PathLike, write_text_atomic
from ...graph import OpGraph, OpNode
from ..arguments.coercion import as_names, as_object
from ..arguments.unmatched import report_unmatched
from ..document_kind import CALIBRATION_DOCUMENT, check_document_kind
from ..files.tolerant_json import dump_json, read_json
from ..layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..layers.refine_config import REFINE, RefineConfig, is_refine_section, read_refine, refine_section
from .document_globals import (
    ACTIVATION_OFFSET,
    BATCH_NUM,
    DO_FUSION,
    UPDATE_BN,
    VERSION,
    BnUpdateConfig,
    read_bn_update,
    read_global,
)
from .layer_dialect import Dialect, TensorKeys
from .layer_document import LayerContext, is_matmul, layer_document, read_layers, to_quantizers

_CLUSTERING = ("max_iteration", "cali_min_distance", "init_algo")
_SEARCH = ("max_percentile", "min_percentile", "search_start", "search_end", "search_step")

CALIBRATION = Dialect(
    switch="quant_enable",
    activation=TensorKeys(
        section="activation_quant_params",
        algorithm="act_algo",
        algorithms={"ifmr_quantize": ("num_bits", *_SEARCH)},
    ),
    weight=TensorKeys(
        section="weight_quant_params",
        algorithm="wts_algo",
        algorithms={
            "arq_quantize": ("num_bits", "channel_wise"),
            "snq_quantize": ("num_bits", "channel_wise", *_CLUSTERING),
        },
        is_weight=True,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """The content of the file.

    Attributes:
      version: Version of the format: 1.
      batch_num: Number of calibration forwards, above 0.
      activation_offset: Whether data is quantized with offset, unless the layer's own entry decides.
      do_fusion: Whether BatchNorms are folded into convolutions.
      skip_fusion_layers: Layers whose BatchNorm is not folded.
      update_bn: Whether BatchNorms are updated before calibration (`update_bn_status`).
      bn_update_config: Momentum and iterations of that update; written only with ``update_bn``.
      refine: The refinement after calibration; None for none.
      layers: One entry per layer, by name, in graph order: the content of the file with this package's names of classes
        and arguments. `to_quant_config` adds the arguments that follow from the settings above.
    """

    version: int = 1
    batch_num: int = 1
    activation_offset: bool = True
    do_fusion: bool = True
    skip_fusion_layers: tuple[str, ...] = ()
    update_bn: bool = False
    bn_update_config: BnUpdateConfig = dataclasses.field(default_factory=BnUpdateConfig)
    refine: RefineConfig | None = None
    layers: Mapping[str, LayerConfig] = dataclasses.field(default_factory=dict)


_GLOBALS = tuple(field.name for field in dataclasses.fields(CalibrationConfig) if field.name not in (REFINE, "layers"))


def read_calibration_config(path: PathLike, graph: OpGraph) -> CalibrationConfig:
    """Returns the checked configuration in ``path`` for the model ``graph``, layers in graph order.

    A layer without an entry in the file has none in the result: it is not quantized. A missing section or argument gets
    its default. Values of a layer with ``quant_enable`` false are not checked.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: Not JSON, a layer that the model does not have, or a wrong value.
    """
    document, source = as_object(read_json(path), f"The document in {path}"), str(path)
    check_document_kind(document, CALIBRATION_DOCUMENT, graph.nodes, source)
    config = _read_globals(document, source)
    report_unknown_fusion_layers(config.skip_fusion_layers, graph, source)
    has_section = is_refine_section(document, graph)
    refine = read_refine(document[REFINE], f"{source}: {REFINE}") if has_section else None
    others = (*_GLOBALS, REFINE) if has_section else _GLOBALS
    entries = {name: entry for name, entry in document.items() if name not in others}
    context = calibration_context(config, graph, source)
    return dataclasses.replace(config, refine=refine, layers=read_layers(entries, context))


def read_calibration_globals(path: PathLike) -> CalibrationConfig:
    """Returns the settings for the whole model, without layers, since ``do_fusion`` decides which layers there are.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: Not JSON, or a wrong value.
    """
    return _read_globals(as_object(read_json(path), f"The document in {path}"), str(path))


def write_calibration_config(config: CalibrationConfig, path: PathLike) -> None:
    """Writes strict JSON: UTF-8, 4-space indent, the global settings, then one key per layer, then ``refine``.

    Raises:
      ConfigError: There is a ``refine`` section, and a layer has that name.
    """
    document: dict[str, Any] = {name: getattr(config, name) for name in _GLOBALS}
    document["skip_fusion_layers"] = list(config.skip_fusion_layers)
    document["bn_update_config"] = dataclasses.asdict(config.bn_update_config)
    if not config.update_bn:
        del document["bn_update_config"]
    layers = {name: layer_document(layer, CALIBRATION) for name, layer in config.layers.items()}
    write_text_atomic(path, dump_json(document | layers | refine_section(config.refine, layers, path)))


def to_quant_config(config: CalibrationConfig, graph: OpGraph) -> QuantConfig:
    """Returns the quantizers of every layer; ``config`` was read or expanded, and so checked, for ``graph``."""
    return to_quantizers(config.layers, graph, partial(_translated, config=config))


def calibration_context(config: CalibrationConfig, graph: OpGraph, source: str) -> LayerContext:
    """Returns the context in which entries of layers are read and completed, with the global settings of ``config``."""
    translation = partial(_translated, config=config)
    return LayerContext(graph=graph, dialect=CALIBRATION, translation=translation, source=source)


def report_unknown_fusion_layers(names: tuple[str, ...], graph: OpGraph, source: str) -> None:
    """Logs a WARNING about those of ``skip_fusion_layers`` that the model does not have."""
    report_unmatched(
        [name for name in names if name not in graph.nodes and name not in graph.layers],
        lambda name: (
            f"skip_fusion_layers of {source}: layer '{name}' is not in the model. {nearest_names(name, graph.layers)}"
        ),
    )


def _translated(node: OpNode, entry: QuantizerConfig, *, config: CalibrationConfig) -> QuantizerConfig:
    given = {"with_offset": config.activation_offset and not is_matmul(node)} | dict(entry.args)
    # Nothing is learned, so any class can hold the range that IFMR finds. With one class for all layers, a matmul and
    # another reader of the same tensor can have equal settings, as the hardware demands.
    return QuantizerConfig("UlqFakeQuantize", given | {"observer": "IFMRObserver", "batch_num": config.batch_num})


def _read_globals(document: Mapping[str, Any], source: str) -> CalibrationConfig:
    update_bn = read_global(UPDATE_BN, document, source)
    given = as_object(document.get("bn_update_config"), f"{source}: bn_update_config")
    return CalibrationConfig(
        version=read_global(VERSION, document, source),
        batch_num=read_global(BATCH_NUM, document, source),
        activation_offset=read_global(ACTIVATION_OFFSET, document, source),
        do_fusion=read_global(DO_FUSION, document, source),
        skip_fusion_layers=as_names(document.get("skip_fusion_layers"), f"{source}: skip_fusion_layers"),
        update_bn=update_bn,
        bn_update_config=read_bn_update(given, update_bn, source),
    )
