"""The registry of observers and quantizers by name; builds them from configuration entries (spec 5, 6)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..config.arguments.quantizer_check import is_custom
from ..config.layers.quant_config import QuantizerConfig
from ..errors import ConfigError, nearest_names
from ..log import get_logger
from .arguments import build, take_checked_values
from .base import ActivationQuantizer, WeightQuantizer
from .foreign.torch_base import ObserverBase
from .observers.observation import WeightObserver
from .quantizer import Quantizer

_LOGGER = get_logger(__name__)
_Class = TypeVar("_Class", bound=type)

# Activation quantizers, weight quantizers and observers have names of their own: FixedFakeQuantize is one of each.
_REGISTERED: dict[type, dict[str, type]] = {ActivationQuantizer: {}, WeightQuantizer: {}, ObserverBase: {}}


def register(name: str) -> Callable[[_Class], _Class]:
    """Returns a decorator that registers a class as ``name`` among its kind; ValueError if the name is in use."""

    def add(cls: _Class) -> _Class:
        names = _REGISTERED[_kind_of(cls)]
        if name in names:
            raise ValueError(f"'{name}' is registered already, for {names[name].__qualname__}.")
        names[name] = cls
        take_checked_values(cls, name, is_weight=issubclass(cls, WeightQuantizer | WeightObserver))
        if issubclass(cls, Quantizer):
            cls.algorithm = name
        return cls

    return add


def build_activation(config: QuantizerConfig, layer: str) -> ActivationQuantizer:
    """Returns a new activation quantizer for ``layer``; ``config`` is a result of `check_quantizer`.

    Raises:
      ConfigError: Unknown quantizer or observer.
    """
    quantizer = _build(ActivationQuantizer, config, layer, {})
    assert isinstance(quantizer, ActivationQuantizer)
    return quantizer


def build_weight(
    config: QuantizerConfig, layer: str, channels: int, allows_channel_wise: bool = True
) -> WeightQuantizer:
    """Returns a new weight quantizer for ``layer``, which has ``channels`` output channels.

    ``config`` is a result of `check_quantizer`. ``allows_channel_wise`` says whether there may be several scales.

    Raises:
      ConfigError: Unknown quantizer or observer, or scales in the configuration that do not fit the channels.
    """
    facts: dict[str, Any] = {"channels": channels, "allows_channel_wise": allows_channel_wise}
    quantizer = _build(WeightQuantizer, config, layer, facts)
    assert isinstance(quantizer, WeightQuantizer)
    return quantizer


@functools.cache
def parameter_names(cls: type) -> frozenset[str]:
    """Returns the names of the keyword arguments of ``cls``, without ``**kwargs``."""
    parameters = inspect.signature(cls).parameters.values()
    return frozenset(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))


def _build(kind: type, config: QuantizerConfig, layer: str, facts: Mapping[str, Any]) -> Quantizer:
    if is_custom(config.quantizer):
        return _build_custom(kind, config, layer, facts)
    cls = _named(kind, config.quantizer, f"Layer '{layer}': quantizer")
    args = {**config.args, **{key: value for key, value in facts.items() if key in parameter_names(cls)}}
    if args.get("observer") is not None:
        args["observer"] = _resolve_observer(args["observer"], layer)
    quantizer: Quantizer = build(cls, {**args, "object_layer": layer})
    return quantizer


def _build_custom(kind: type, config: QuantizerConfig, layer: str, facts: Mapping[str, Any]) -> Quantizer:
    from .foreign.custom import (  # imported late, as it imports base and is not registered
        CustomActivationQuantizer,
        CustomWeightQuantizer,
    )

    if kind is ActivationQuantizer:
        return CustomActivationQuantizer(config.quantizer, config.args, object_layer=layer)
    return CustomWeightQuantizer(
        config.quantizer, config.args, object_layer=layer, channels=facts["channels"],
        allows_channel_wise=facts["allows_channel_wise"],
    )  # fmt: skip


def _resolve_observer(observer: Any, layer: str) -> type:
    if isinstance(observer, type):
        return observer
    if is_custom(str(observer)):
        from .foreign.dotted_path import import_observer

        return import_observer(str(observer), layer)
    return _named(ObserverBase, str(observer), f"Layer '{layer}': observer")


def _named(kind: type, name: str, where: str) -> type:
    names = _REGISTERED[kind]
    if name not in names:
        msg = f"{where} '{name}' is unknown. {nearest_names(name, names)}"
        raise ConfigError(msg)
    return names[name]


def _kind_of(cls: type) -> type:
    return next(kind for kind in _REGISTERED if issubclass(cls, kind))
