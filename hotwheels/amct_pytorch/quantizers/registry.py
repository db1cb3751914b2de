"""The names of observers and quantizers, and how a configuration entry becomes an object (spec 5, 6)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

from ..config.arguments.algorithms import OBSERVERS, QUANTIZERS, arguments_of, canonical_names
from ..config.arguments.quantizer_check import check_quantizer, is_custom
from ..config.layers.quant_config import QuantizerConfig
from ..errors import ConfigError, nearest_names
from ..log import get_logger
from .base import ActivationQuantizer, Quantizer, WeightQuantizer
from .foreign.torch_base import ObserverBase

_LOGGER = get_logger(__name__)
_Class = TypeVar("_Class", bound=type)

# Activation quantizers, weight quantizers and observers have names of their own: FixedFakeQuantize is one of each.
_REGISTERED: dict[type, dict[str, type]] = {ActivationQuantizer: {}, WeightQuantizer: {}, ObserverBase: {}}


def register(name: str) -> Callable[[_Class], _Class]:
    """Makes the decorated class known under ``name`` among its kind; a name can be given once."""

    def add(cls: _Class) -> _Class:
        names = _REGISTERED[_kind_of(cls)]
        if name in names:
            raise ValueError(f"'{name}' is registered already, for {names[name].__qualname__}.")
        names[name] = cls
        return cls

    return add


def build_activation(config: QuantizerConfig, layer: str) -> ActivationQuantizer:
    """Returns a new activation quantizer for ``layer``.

    Raises:
      ConfigError: Unknown quantizer or observer, or an argument outside its range.
    """
    quantizer = _build(ActivationQuantizer, config, layer, {})
    assert isinstance(quantizer, ActivationQuantizer)
    return quantizer


def build_weight(
    config: QuantizerConfig, layer: str, channels: int, allows_channel_wise: bool = True
) -> WeightQuantizer:
    """Returns a new weight quantizer for ``layer``, which has ``channels`` output channels.

    Without ``allows_channel_wise`` (Linear) there is one scale for the weight; a configured channel_wise is a WARNING.

    Raises:
      ConfigError: Unknown quantizer or observer, or an argument outside its range.
    """
    facts: dict[str, Any] = {"channels": channels, "allows_channel_wise": allows_channel_wise}
    if not allows_channel_wise:
        if config.args.get("channel_wise"):
            _LOGGER.warning("Layer '%s' has no channels: channel_wise is set to false.", layer)
        facts["channel_wise"] = False
    quantizer = _build(WeightQuantizer, config, layer, facts)
    assert isinstance(quantizer, WeightQuantizer)
    return quantizer


@functools.cache
def parameter_names(cls: type) -> frozenset[str]:
    """The keyword arguments which the constructor of ``cls`` names."""
    parameters = inspect.signature(cls).parameters.values()
    return frozenset(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))


def _build(kind: type, config: QuantizerConfig, layer: str, facts: Mapping[str, Any]) -> Quantizer:
    if is_custom(config.quantizer):
        return _build_custom(kind, config, layer, facts)
    if config.quantizer in QUANTIZERS:
        config = check_quantizer(config, f"Layer '{layer}'", kind is WeightQuantizer)
    cls = _named(kind, config.quantizer, f"Layer '{layer}': quantizer")
    known = parameter_names(cls)
    args = {**config.args, **{key: value for key, value in facts.items() if key in known}, "object_layer": layer}
    if "observer" in args:
        args["observer"] = _resolve_observer(args["observer"], layer)
    observer = args.get("observer", _default_observer(cls))
    if observer is not None:
        known = known | parameter_names(observer)
        args = _canonical(args, observer, known, kind is WeightQuantizer)
    quantizer: Quantizer = cls(**_known_only(args, known, config.quantizer, layer))
    return quantizer


def _build_custom(kind: type, config: QuantizerConfig, layer: str, facts: Mapping[str, Any]) -> Quantizer:
    from .foreign.custom import (  # it is registered nowhere, and imports base
        CustomActivationQuantizer,
        CustomWeightQuantizer,
    )

    if kind is ActivationQuantizer:
        return CustomActivationQuantizer(config.quantizer, config.args, object_layer=layer)
    return CustomWeightQuantizer(
        config.quantizer, config.args, object_layer=layer, channels=facts["channels"],
        allows_channel_wise=facts["allows_channel_wise"],
    )  # fmt: skip


def _known_only(args: Mapping[str, Any], known: Set[str], quantizer: str, layer: str) -> dict[str, Any]:
    """The arguments which the quantizer or its observer knows; the others are a WARNING."""
    for name in sorted(args.keys() - known):
        _LOGGER.warning(
            "Layer '%s': %s and its observer have no argument '%s'; it is ignored. %s",
            layer, quantizer, name, nearest_names(name, sorted(known)),
        )  # fmt: skip
    return {name: value for name, value in args.items() if name in known}


def _canonical(args: Mapping[str, Any], observer: type, known: Set[str], is_weight: bool) -> dict[str, Any]:
    """``args`` with the other spellings of the observer's arguments renamed, unless the quantizer means them itself."""
    if observer.__name__ not in OBSERVERS:
        return dict(args)
    own = {name: value for name, value in args.items() if name in known}
    others = {name: value for name, value in args.items() if name not in known}
    return canonical_names(others, arguments_of(observer.__name__, is_weight).values()) | own


def _resolve_observer(observer: Any, layer: str) -> type:
    if isinstance(observer, type):
        return observer
    if is_custom(str(observer)):
        from .foreign.dotted_path import import_class

        return import_class(str(observer), layer)
    return _named(ObserverBase, str(observer), f"Layer '{layer}': observer")


def _default_observer(cls: type) -> type | None:
    parameter = inspect.signature(cls).parameters.get("observer")
    return None if parameter is None else parameter.default


def _named(kind: type, name: str, where: str) -> type:
    names = _REGISTERED[kind]
    if name not in names:
        msg = f"{where} '{name}' is unknown. {nearest_names(name, names)}"
        raise ConfigError(msg)
    return names[name]


def _kind_of(cls: type) -> type:
    return next(kind for kind in _REGISTERED if issubclass(cls, kind))
