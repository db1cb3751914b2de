"""Reads the simple yaml of the FX path into a SimpleConfig (spec 7.2, 8.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from ...errors import ConfigError
from ...files import PathLike
from ...files.limits import SIMPLE_CONFIG
from ..arguments.coercion import as_bool, as_list, as_name_list, as_names, as_object, as_text, report_unknown
from ..arguments.section import Section, read_section
from ..arguments.unmatched import report_unmatched
from ..files.kinds import SIMPLE_KEYS, cfg_kind, named_if_other
from ..files.om_json import mapping_path, read_om_json
from ..files.text_file import read_text
from ..files.yaml_text import load_yaml
from ..layers.layer_entry import SWITCHES
from ..layers.refine_config import REFINE, read_refine
from ..layers.rule import Rule
from .simple_config import SimpleConfig

_KEYS = (*SIMPLE_KEYS, REFINE)
_SECTIONS = ("quant_enable", "weight_quant_params", "activation_quant_params")


def read_simple_yaml(path: PathLike) -> SimpleConfig:
    """Returns the rules in a yaml file, and the content of the om.json that it names.

    Raises:
      FileNotFoundError: There is no such file, or no such om.json.
      ConfigError: The file is not yaml, or a key has a value of the wrong type. Arguments of algorithms are not
        checked here, since a rule may match no layer.
    """
    simple = parse_simple_yaml(read_text(path, "Simple configuration file", SIMPLE_CONFIG), str(path))
    if simple.mapping_file is None:
        return simple
    return dataclasses.replace(simple, om_layers=read_om_json(mapping_path(simple.mapping_file, path), path))


def parse_simple_yaml(text: str, source: str) -> SimpleConfig:
    """Returns the rules in ``text`` without opening the om.json; ``source`` is the file's name in messages.

    Raises:
      ConfigError: See `read_simple_yaml`.
    """
    if (cfg := cfg_kind(text)) is not None:
        raise ConfigError(f"'{source}' is {cfg}; a simple configuration in YAML is expected here.")
    with named_if_other(text, source, "a simple configuration in YAML", "YAML", "JSON"):
        document = as_object(load_yaml(text, source), f"The document in {source}")
    if is_layer_config(document):
        raise ConfigError(f"'{source}' is a config.json; a simple configuration in YAML is expected here.")
    report_unknown(document, _KEYS, source)
    return SimpleConfig(
        source=source,
        skip_layers=as_name_list(document.get("skip_layers"), f"{source}: skip_layers"),
        mapping_file=_mapping_file(document.get("om_config"), f"{source}: om_config"),
        common=_rule(as_object(document.get("common_config"), f"{source}: common_config"), f"{source}: common_config"),
        types=_rules(document, "override_layer_types", "layer_type", source),
        layers=_rules(document, "override_layer_configs", "layer_name", source),
        refine=read_refine(document.get(REFINE), f"{source}: {REFINE}"),
    )


def is_layer_config(document: Mapping[str, Any]) -> bool:
    """Whether ``document`` has an entry for each layer, as a config.json has, and no key of a simple configuration."""
    entries = [one for one in document.values() if isinstance(one, Mapping)]
    return not document.keys() & set(_KEYS) and any(one.keys() & set(SWITCHES) for one in entries)


def _mapping_file(value: object, where: str) -> str | None:
    given = as_object(value, where)
    report_unknown(given, ("mapping_file",), where)
    path = given.get("mapping_file")
    return None if path in (None, "") else as_text(path, f"{where}.mapping_file")


def _rules(document: Mapping[str, Any], key: str, name_key: str, source: str) -> tuple[Rule, ...]:
    rules = []
    for index, entry in enumerate(as_list(document.get(key))):
        where = f"{source}: {key}[{index}]"
        given = as_object(entry, where)
        if name_key not in given:
            report_unmatched([name_key], partial("{0} has no {1}, so it is for no layer.".format, where))
        names = as_names(given.get(name_key), f"{where}.{name_key}")
        rules.append(_rule(given, where, name_key, names))
    return tuple(rules)


def _rule(given: Mapping[str, Any], where: str, name_key: str | None = None, names: tuple[str, ...] = ()) -> Rule:
    report_unknown(given, _SECTIONS if name_key is None else (name_key, *_SECTIONS), where)
    quant_enable = given.get("quant_enable")
    return Rule(
        names=names,
        activations=_activations(given.get("activation_quant_params"), f"{where}.activation_quant_params"),
        weight=_section(given.get("weight_quant_params"), f"{where}.weight_quant_params"),
        quant_enable=None if quant_enable is None else as_bool(quant_enable, f"{where}.quant_enable"),
    )


def _activations(value: object, where: str) -> Section | tuple[Section, ...] | None:
    if isinstance(value, list):
        return tuple(read_section(one, f"{where}[{index}]") for index, one in enumerate(value))
    return _section(value, where)


def _section(value: object, where: str) -> Section | None:
    return None if value is None else read_section(value, where)
