"""The kind of a configuration in JSON, recognized by keys that only this kind has, so that a mix-up is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigError
from ..files import PathLike
from .dynamic.document_globals import ACTIVATION_OFFSET, DO_FUSION, RETRAIN_SECTIONS, UPDATE_BN, VERSION
from .files.kinds import SIMPLE_KEYS
from .layers.layer_rules import ACTIVATION_PARAMS, WEIGHT_PARAMS

FX_DOCUMENT = "a config.json of the FX path"
CALIBRATION_DOCUMENT = "a config.json of calibration on the dynamic path"
TRAINING_DOCUMENT = "a config.json of training on the dynamic path"
_DYNAMIC = "a config.json of the dynamic path"
_SIMPLE = "a simple configuration"


def check_document_kind(document: Mapping[str, Any], expected: str, layers: Iterable[str], path: PathLike) -> None:
    """Raises ConfigError if ``document`` is of another kind than ``expected``; ``layers`` are those of the model."""
    found = _kind(document, frozenset(layers))
    is_right = found in (None, expected) or (found == _DYNAMIC and expected != FX_DOCUMENT)
    if not is_right:
        raise ConfigError(f"'{path}' is {found}; {expected} is expected here.")


def _kind(document: Mapping[str, Any], layers: frozenset[str]) -> str | None:
    """Returns the kind; None if it cannot be told, as where only keys of layers that all kinds know are given."""
    entries = [one for one in document.values() if isinstance(one, Mapping)]
    if any(key in one for one in entries for key in RETRAIN_SECTIONS):
        return TRAINING_DOCUMENT
    settings = {name for name, value in document.items() if not isinstance(value, Mapping)} - layers
    if settings & {ACTIVATION_OFFSET.name, DO_FUSION.name, UPDATE_BN.name}:
        return CALIBRATION_DOCUMENT
    if any("quantizer" in one for entry in entries for one in _sections(entry)):
        return FX_DOCUMENT
    if not layers & document.keys() and document.keys() & set(SIMPLE_KEYS):
        return _SIMPLE
    return _DYNAMIC if VERSION.name in settings else None


def _sections(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = entry.get(ACTIVATION_PARAMS)
    found = [*(data if isinstance(data, list) else [data]), entry.get(WEIGHT_PARAMS)]
    return [one for one in found if isinstance(one, Mapping)]
