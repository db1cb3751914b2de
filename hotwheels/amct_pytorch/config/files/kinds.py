"""Kinds: what a text is that stands where another document is expected, for messages."""

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
# Fields that a simple yaml has, too, in a spelling that may be both.
_IN_BOTH = {"skip_layers", "om_config"}


def kind_of(text: str) -> str | None:
    """Returns a noun for what ``text`` is, None if it is nothing that is known."""
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
    """Returns which .cfg of the dynamic path ``text`` is, None if it is none or might as well be a simple yaml."""
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
    """Makes a ConfigError in the block say what ``text`` is, if that is another kind of document.

    Args:
      text: What is read in the block.
      source: Name of the file.
      expected: The document that the reader takes, a noun with its article.
      kinds: Words in what `kind_of` says of such a document; the error in the block is then about its content.
    """
    try:
        yield
    except ConfigError as error:
        kind = kind_of(text)
        if kind is None or any(word in kind for word in kinds):
            raise
        raise ConfigError(f"'{source}' is {kind}; {expected} is expected here.") from error


def _is_yaml(text: str) -> bool:
    """Whether it is a mapping with nested blocks or a key of a simple configuration; others may be a damaged .cfg."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # nothing is made of its values
    except Exception:  # PyYAML leaks errors of many classes
        return False
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return False
    return any(key.value in SIMPLE_KEYS or getattr(value, "flow_style", None) is False for key, value in root.value)
