"""Reads the simple .cfg of the dynamic path, protobuf text, for both kinds of quantization (spec 9.4, 9.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ...errors import ConfigError
from ...files import PathLike
from ...files.limits import SIMPLE_CONFIG
from ...proto import AMCTConfig, AMCTRetrainConfig
from ...record.parse import parse_message
from ..arguments.algorithms import CLASS_OF_ALGORITHM, QUANTIZERS
from ..arguments.coercion import as_name_list
from ..arguments.section import Section
from ..files.kinds import named_if_other
from ..files.om_json import OmLayers, mapping_path, read_om_json
from ..files.text_file import read_text
from ..layers.refine_config import REFINE, RefineConfig, read_refine
from ..layers.rule import Rule
from .document_globals import (
    ACTIVATION_OFFSET,
    BATCH_NUM,
    DO_FUSION,
    UPDATE_BN,
    BnUpdateConfig,
    read_bn_update,
    read_global,
)

_WHAT = "Simple configuration file"
_ARGUMENT_OF = {"search_range_start": "search_start", "search_range_end": "search_end"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleRetrainConfig:
    """The content of an AMCTRetrainConfig; every default means that the file does not set the field.

    Attributes:
      source: Name of the file, for messages.
      batch_num: Number of forwards that find the first ranges.
      skip_layers: Names of layers, or of modules that contain layers, that stay in float; above all other settings.
      skip_layer_types: ONNX types of layers that stay in float; above all other settings.
      common: Rule for every layer.
      types: Rules for layers of an ONNX type, by increasing priority; above ``common`` and ``om_layers``.
      layers: Rules for layers by name, by increasing priority; above ``types``.
      mapping_file: Path of the om.json as written in the file; None without om.json.
      om_layers: Content of that om.json: for each layer the widths of its inputs.
    """

    source: str = dataclasses.field(default="the default configuration", compare=False)
    batch_num: int = 1
    skip_layers: tuple[str, ...] = ()
    skip_layer_types: tuple[str, ...] = ()
    common: Rule = dataclasses.field(default_factory=Rule)
    types: tuple[Rule, ...] = ()
    layers: tuple[Rule, ...] = ()
    mapping_file: str | None = None
    om_layers: OmLayers = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleCalibrationConfig(SimpleRetrainConfig):
    """The content of an AMCTConfig: the fields of a SimpleRetrainConfig, and the global settings of calibration.

    Attributes:
      activation_offset: Whether data is quantized with offset, unless a rule decides.
      do_fusion: Whether BatchNorms are folded into convolutions.
      skip_fusion_layers: Layers whose BatchNorm is not folded.
      update_bn: Whether BatchNorms are updated before calibration.
      bn_update_config: Momentum and iterations of that update.
      refine: The refinement after calibration; None for none.
    """

    activation_offset: bool = True
    do_fusion: bool = True
    skip_fusion_layers: tuple[str, ...] = ()
    update_bn: bool = False
    bn_update_config: BnUpdateConfig = dataclasses.field(default_factory=BnUpdateConfig)
    refine: RefineConfig | None = None


_Simple = TypeVar("_Simple", bound=SimpleRetrainConfig)


def read_simple_calibration(path: PathLike) -> SimpleCalibrationConfig:
    """Returns the rules in an AMCTConfig file, and the content of the om.json that it names.

    Raises:
      FileNotFoundError: There is no such file, or no such om.json.
      ConfigError: It does not parse, or a global setting has a wrong value. Arguments of algorithms are checked when
        they are applied to a layer, since a rule may match no layer.
    """
    return _with_om_layers(parse_simple_calibration(read_text(path, _WHAT, SIMPLE_CONFIG), str(path)), path)


def read_simple_retrain(path: PathLike) -> SimpleRetrainConfig:
    """Returns the rules in an AMCTRetrainConfig file, and the content of the om.json that it names.

    Raises:
      FileNotFoundError: There is no such file, or no such om.json.
      ConfigError: See `read_simple_calibration`.
    """
    return _with_om_layers(parse_simple_retrain(read_text(path, _WHAT, SIMPLE_CONFIG), str(path)), path)


def parse_simple_calibration(text: str, source: str) -> SimpleCalibrationConfig:
    """Returns the rules in ``text`` without opening the om.json; ``source`` is the file's name in messages.

    Raises:
      ConfigError: See `read_simple_calibration`.
    """
    message = _parsed(AMCTConfig, text, source)
    document = _set_fields(message)
    update_bn = read_global(UPDATE_BN, document, source)
    bn_update = _set_fields(message.bn_update_config)
    return SimpleCalibrationConfig(
        **_shared(message, source),
        activation_offset=read_global(ACTIVATION_OFFSET, document, source),
        common=_calibration_rule(message.common_config),
        types=tuple(_calibration_rule(one.calibration_config, one.layer_type) for one in message.override_layer_types),
        layers=tuple(
            _calibration_rule(one.calibration_config, one.layer_name) for one in message.override_layer_configs
        ),
        do_fusion=read_global(DO_FUSION, document, source),
        skip_fusion_layers=tuple(message.skip_fusion_layers),
        update_bn=update_bn,
        bn_update_config=read_bn_update(bn_update, update_bn, source),
        refine=_refine(document.get(REFINE), source),
    )


def parse_simple_retrain(text: str, source: str) -> SimpleRetrainConfig:
    """Returns the rules in ``text`` without opening the om.json; ``source`` is the file's name in messages.

    Raises:
      ConfigError: See `read_simple_calibration`.
    """
    message = _parsed(AMCTRetrainConfig, text, source)
    return SimpleRetrainConfig(
        **_shared(message, source),
        common=_retrain_rule(message),
        types=tuple(_retrain_rule(one, one.layer_type) for one in message.override_layer_types),
        layers=tuple(_retrain_rule(one, one.layer_name) for one in message.override_layer_configs),
    )


def simple_calibration(
    skip_layers: Sequence[str] | str | None = None, batch_num: int = 1, activation_offset: bool = True
) -> SimpleCalibrationConfig:
    """Returns the rules that follow from the arguments of ``create_quant_config``.

    Raises:
      ConfigError: An argument has the wrong type or is out of range.
    """
    source = "create_quant_config()"
    names = list(skip_layers) if isinstance(skip_layers, tuple) else skip_layers
    return SimpleCalibrationConfig(
        source=source,
        skip_layers=as_name_list(names, f"{source}: skip_layers"),
        batch_num=BATCH_NUM.read(batch_num, source),
        activation_offset=ACTIVATION_OFFSET.read(activation_offset, source),
    )


def _parsed(kind: Any, text: str, source: str) -> Any:
    with named_if_other(text, source, "a .cfg (protobuf text)", ".cfg"):
        return parse_message(kind, text, source, ConfigError)


def _with_om_layers(simple: _Simple, path: PathLike) -> _Simple:
    if simple.mapping_file is None:
        return simple
    return dataclasses.replace(simple, om_layers=read_om_json(mapping_path(simple.mapping_file, path), path))


def _shared(message: Any, source: str) -> dict[str, Any]:
    """Returns the fields that both messages have."""
    return {
        "source": source,
        "batch_num": read_global(BATCH_NUM, _set_fields(message), source),
        "skip_layers": tuple(message.skip_layers),
        "skip_layer_types": tuple(message.skip_layer_types),
        "mapping_file": message.om_config.mapping_file or None,
    }


def _refine(message: Any, source: str) -> RefineConfig | None:
    if message is None:
        return None
    document = _set_fields(message)
    if "methods" in document:
        document["methods"] = {one.name: list(one.layers) or None for one in document["methods"]}
    return read_refine(document, f"{source}: {REFINE}")


def _calibration_rule(message: Any, *names: str) -> Rule:
    return Rule(names=names, activations=_section(message, "data"), weight=_section(message, "weights"))


def _retrain_rule(message: Any, *names: str) -> Rule:
    data, weight = message.retrain_data_quant_config, message.retrain_weight_quant_config
    return Rule(names=names, activations=_section(data, "data"), weight=_section(weight, "weights"))


def _section(message: Any, oneof: str) -> Section | None:
    """Returns the algorithm that the message chooses, with its arguments; None if it chooses none."""
    algorithm = message.WhichOneof(oneof)
    if algorithm is None:
        return None
    name = CLASS_OF_ALGORITHM[algorithm]
    # If the algorithm is an observer, the kind of layer decides the quantizer.
    return Section(name if name in QUANTIZERS else None, _arguments(getattr(message, algorithm)))


def _arguments(message: Any) -> dict[str, Any]:
    given = _set_fields(message)
    if "clip_max_min" in given:
        given |= _set_fields(given.pop("clip_max_min"))
    return {_ARGUMENT_OF.get(name, name): value for name, value in given.items()}


def _set_fields(message: Any) -> dict[str, Any]:
    """Returns the fields that the file sets, by name."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: Any, value: Any) -> Any:
    """Returns ``value``; a float32 as the shortest decimal that reads back equal: 0.7, not 0.699999988."""
    is_float32 = field.type == field.TYPE_FLOAT and isinstance(value, float)
    return float(str(np.float32(value))) if is_float32 else value
