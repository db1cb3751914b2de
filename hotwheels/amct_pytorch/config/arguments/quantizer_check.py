"""Checks one QuantizerConfig: class, keys, types, ranges, and values that do not fit together (spec 4.2, 5, 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.spec import QuantSpec
from ...errors import ConfigError, nearest_names
from ...log import get_logger
from ..layers.quant_config import QuantizerConfig
from .algorithms import (
    OBSERVERS,
    QUANTIZERS,
    SEARCH_RANGE,
    Algorithm,
    arguments_of,
    canonical_names,
    check_required,
)
from .argument import Argument
from .coercion import as_text, report_unknown, shown

_log = get_logger(__name__)

_MOST_CANDIDATES = 10_000  # of one search; each reads every element of a tensor, or its histogram


def check_quantizer(config: QuantizerConfig, where: str, is_weight: bool) -> QuantizerConfig:
    """Returns ``config`` with canonical keys and types; messages begin with ``where``.

    A key is an argument of the quantizer if the quantizer knows it, else of its observer; a key that neither knows is
    dropped with a WARNING. No default is filled in. A quantizer given by a dotted path is not checked (spec 6.6).

    Raises:
      ConfigError: Unknown class, missing argument, wrong type or out of range.
    """
    if is_custom(config.quantizer):
        return config
    where = f"{where}, {config.quantizer}"
    algorithm = _quantizer(config.quantizer, where, is_weight)
    observer = _observer_name(config, algorithm, where, is_weight)
    known = known_arguments(config.quantizer, observer, is_weight)
    args, others = check_values(config.quantizer, config.args, known, where)
    if observer is None or not is_custom(observer):  # a user's observer checks its own arguments
        report_unknown(others, known, where)
        others = {}
    return QuantizerConfig(config.quantizer, {**args, **others})


def check_values(
    class_name: str, given: Mapping[str, Any], known: Mapping[str, Argument], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the checked values of the ``known`` arguments, and all other given values, unchecked.

    The checked values have canonical names and the right types, are inside their ranges and fit together. Keys with the
    value None count as absent; no default is filled in.

    Raises:
      ConfigError: A required argument of ``class_name`` is missing, or a value is wrong.
    """
    given = canonical_names(_without_search_range(given, known, where), known.values())
    check_required(class_name, given, known.values(), where)
    args = {key: known[key].read(value, where) for key, value in given.items() if key in known}
    return _consistent(args, known, where), {key: value for key, value in given.items() if key not in known}


def is_custom(class_name: str) -> bool:
    """Whether the name is a dotted path to a class from outside this package."""
    return "." in class_name


def num_bits_of(config: QuantizerConfig, is_weight: bool) -> int | None:
    """Returns the width that a checked ``config`` gives its tensor; None if a class from outside decides."""
    if is_custom(config.quantizer):
        return None
    return int(config.args.get("num_bits", arguments_of(config.quantizer, is_weight)["num_bits"].default))


def effective_args(config: QuantizerConfig, is_weight: bool) -> dict[str, Any]:
    """Returns the arguments of a checked ``config`` with all defaults filled in; unchanged for a class from outside."""
    if config.quantizer not in QUANTIZERS:
        return dict(config.args)
    known = known_arguments(config.quantizer, observer_of(config), is_weight)
    defaults = {name: argument.default for name, argument in known.items()}
    return {**defaults, "observer": observer_of(config), **config.args}


def observer_of(config: QuantizerConfig) -> str | None:
    """Returns the observer's class name of a ``config`` with a quantizer of this package; None without observer."""
    name = config.args.get("observer", QUANTIZERS[config.quantizer].observer)
    return None if name is None else str(name)


def _quantizer(name: str, where: str, is_weight: bool) -> Algorithm:
    tensor = "weight" if is_weight else "activation"
    usable = [other for other, algorithm in QUANTIZERS.items() if tensor in algorithm.tensors]
    if name not in QUANTIZERS:
        raise ConfigError(f"{where}: there is no quantizer '{name}'. {nearest_names(name, usable)}")
    if name not in usable:
        raise ConfigError(f"{where}: this quantizer is not for {tensor}s; allowed: {', '.join(usable)}.")
    return QUANTIZERS[name]


def _observer_name(config: QuantizerConfig, algorithm: Algorithm, where: str, is_weight: bool) -> str | None:
    given = config.args.get("observer")
    if given is None or algorithm.observer is None:
        return algorithm.observer
    name, tensor = as_text(given, f"{where}: observer"), "weight" if is_weight else "activation"
    usable = [other for other, one in OBSERVERS.items() if tensor in one.tensors]
    if not is_custom(name) and name not in usable:
        raise ConfigError(f"{where}: there is no observer '{name}' for {tensor}s. {nearest_names(name, usable)}")
    return name


def known_arguments(quantizer: str, observer: str | None, is_weight: bool) -> dict[str, Argument]:
    """Returns the arguments of a quantizer and its observer by name.

    If both have an argument, that of the quantizer is used. An observer's argument is left out if its name is an alias
    in the quantizer.
    """
    own = arguments_of(quantizer, is_weight)
    if observer is None or is_custom(observer):
        return dict(own)
    spoken_for = {alias for argument in own.values() for alias in argument.aliases}
    inherited = arguments_of(observer, is_weight)
    return {name: one for name, one in inherited.items() if name not in spoken_for} | dict(own)


def _without_search_range(args: Mapping[str, Any], known: Mapping[str, Argument], where: str) -> Mapping[str, Any]:
    """Replaces ``search_range: [start, end]`` by its two keys, for observers that search."""
    if SEARCH_RANGE not in args or "search_start" not in known:
        return args
    ends = args[SEARCH_RANGE]
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise ConfigError(f"{where}: {SEARCH_RANGE} is {shown(ends)}; a list of two numbers is expected.")
    rest = {key: value for key, value in args.items() if key != SEARCH_RANGE}
    return {"search_start": ends[0], "search_end": ends[1]} | rest


def _consistent(args: dict[str, Any], known: Mapping[str, Argument], where: str) -> dict[str, Any]:
    _check_search(args, known, where)
    _check_zero_point(args, known, where)
    args = _one_symmetry(args, where)
    return _hardware_bounds(args, known, where)


def _value(args: Mapping[str, Any], known: Mapping[str, Argument], key: str) -> Any:
    return args.get(key, known[key].default)


def _check_search(args: Mapping[str, Any], known: Mapping[str, Argument], where: str) -> None:
    if "search_start" not in known:
        return
    start, end = _value(args, known, "search_start"), _value(args, known, "search_end")
    if start >= end:
        raise ConfigError(f"{where}: search_start is {start} and search_end is {end}; the start must be smaller.")
    # The difference of 0.7 and 1.3 is not exactly 0.6; a step as wide as the range is allowed.
    step = _value(args, known, "search_step") if "search_step" in known else end - start
    if step > (end - start) * (1 + 1e-9):
        raise ConfigError(f"{where}: search_step is {step}; allowed: (0, {end - start:.6g}], the width of the search.")
    if (end - start) / step > _MOST_CANDIDATES:
        raise ConfigError(
            f"{where}: search_step is {step}, which makes {(end - start) / step:,.0f} candidates from search_start to"
            f" search_end; at most {_MOST_CANDIDATES:,} are allowed. The default 0.01 makes 61."
        )


def _check_zero_point(args: Mapping[str, Any], known: Mapping[str, Argument], where: str) -> None:
    if "zero_point" not in known:
        return
    spec = QuantSpec(num_bits=_value(args, known, "num_bits"))
    found = args["zero_point"]
    if not spec.qmin <= found <= spec.qmax:
        msg = f"{where}: zero_point is {found}; with {spec.num_bits} bits allowed: {spec.qmin} to {spec.qmax}."
        raise ConfigError(msg)


def _one_symmetry(args: dict[str, Any], where: str) -> dict[str, Any]:
    """Makes ``qscheme`` and ``with_offset`` agree: if they contradict each other, symmetric is used (spec 5.1)."""
    scheme, with_offset = args.get("qscheme"), args.get("with_offset")
    if scheme is None or with_offset is None or (scheme == "symmetric") != with_offset:
        return args
    _log.warning_of_place(where, f"qscheme {scheme} contradicts with_offset {with_offset}; symmetric is used.")
    return args | {"qscheme": "symmetric", "with_offset": False}


def _hardware_bounds(args: dict[str, Any], known: Mapping[str, Argument], where: str) -> dict[str, Any]:
    """Drops ``quant_min`` and ``quant_max`` unless they are the ends of the signed integer, as the hardware demands."""
    if "quant_min" not in known:
        return args
    spec = QuantSpec(num_bits=_value(args, known, "num_bits"))
    for key, end in (("quant_min", spec.qmin), ("quant_max", spec.qmax)):
        if args.get(key, end) != end:
            _log.warning_of_place(where, f"{key} is {args[key]}; with {spec.num_bits} bits {end} is used.")
            args = {name: value for name, value in args.items() if name != key}
    return args
