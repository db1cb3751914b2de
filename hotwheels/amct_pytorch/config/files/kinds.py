"""Kinds: names the kind of a text that was given instead of another document, for messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from google.protobuf import text_format

from ...errors import ConfigError
from ...files.limits import SIMPLE_CONFIG
from ...proto import AMCTConfig, AMCTRetrainConfig

_START = r"\s*(?:#[^\n]*\n\s*)*"
_RECORD = re.compile(_START + r"record\s*:?\s*\{")
_PARAMETERS = re.compile(_START + r"(?:version\s*:\s*\d+\s+)?layer\s*:?\s*\{")
_JSON = re.compile(r"\s*(?:(?:#|//)[^\n]*\n\s*)*[{\[]")
SIMPLE_KEYS = ("skip_layers", "om_config", "common_config", "override_layer_types", "override_layer_configs")
# Fields of both a .cfg and a simple yaml, in a spelling that is valid in both.
_IN_BOTH = {"skip_layers", "om_config", "refine"}


def kind_of(text: str) -> str | None:
    """Returns a noun for the kind of ``text``; None if the kind is unknown."""
    if _RECORD.match(text):
        return "a record of quantization factors"
    if _PARAMETERS.match(text):
        return "a parameter file of the model converter"
    if len(text) > SIMPLE_CONFIG.most:
        return None
    if (cfg := cfg_kind(text)) is not None:
        return cfg
    if _JSON.match(text):
        return "a JSON document"
    return "a YAML document" if _is_yaml(text) else None


def cfg_kind(text: str) -> str | None:
    """Returns the kind of .cfg of the dynamic path; None if ``text`` is none, or may be a simple yaml too."""
    for kind, name in ((AMCTConfig, "calibration"), (AMCTRetrainConfig, "training")):
        message: Any = kind()
        try:
            text_format.Merge(text, message)
        except (text_format.ParseError, ValueError, RecursionError):
            continue
        if {field.name for field, _ in message.ListFields()} - _IN_BOTH:
            return f"a .cfg of {name} on the dynamic path"
    return None


@contextmanager
def named_if_other(text: str, source: str, expected: str, *kinds: str) -> Iterator[None]:
    """Replaces a ConfigError in the block by one that names the kind of ``text``, if that is not the expected kind.

    Args:
      text: The text that the block reads.
      source: Name of the file.
      expected: The expected document, a noun with its article.
      kinds: Words of `kind_of` for the expected kind; if the kind has one of them, the original error is kept.
    """
    try:
        yield
    except ConfigError as error:
        kind = kind_of(text)
        if kind is None or any(word in kind for word in kinds):
            raise
        raise ConfigError(f"'{source}' is {kind}; {expected} is expected here.") from error


def _is_yaml(text: str) -> bool:
    """Whether ``text`` is a mapping with nested blocks or a key of a simple configuration; else maybe a bad .cfg."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # constructs no values
    except Exception:  # PyYAML raises errors of many classes
        return False
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return False
    return any(key.value in SIMPLE_KEYS or getattr(value, "flow_style", None) is False for key, value in root.value)
