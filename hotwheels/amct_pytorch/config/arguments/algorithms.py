"""The algorithms of this package and their arguments: the only module with the ranges of spec 5 and 6."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ...core.search.ifmr import IfmrOptions
from ...core.search.luq import MAX_VALUE_EPS
from ...core.spec import ACTIVATION_BITS, SMALLEST_SCALE, WEIGHT_BITS
from ...errors import ConfigError, nearest_names
from .argument import Argument
from .ranges import NEGATIVE, POSITIVE, above, at_least, closed

NON_UNIFORM_BITS = 4  # SNQ and LNQ: a codebook of 16 values
SEARCH_RANGE = "search_range"  # spelling of search_start, search_end on the dynamic path: [start, end]

# Names of the algorithms in the documents of the dynamic path; several names may mean the same class (spec 7).
CLASS_OF_ALGORITHM: Mapping[str, str] = {
    "ifmr_quantize": "IFMRObserver",
    "ulq_quantize": "UlqFakeQuantize",
    "ulq_retrain": "UlqFakeQuantize",
    "luq_quantize": "LuqActivationFakeQuantize",
    "luq_retrain": "LuqActivationFakeQuantize",
    "fixed_quantize": "FixedFakeQuantize",
    "fixed_quant_param_retrain": "FixedFakeQuantize",
    "arq_quantize": "ArqWeightFakeQuantize",
    "arq_retrain": "ArqWeightFakeQuantize",
    "lnq_quantize": "LnqFakeQuantize",
    "lnq_retrain": "LnqFakeQuantize",
    "snq_quantize": "SnqWeightFakeQuantize",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A quantizer or an observer.

    Attributes:
      observer: Default observer of a quantizer; None for observers and for quantizers without observer.
      tensors: The tensors it quantizes: activation, weight or both.
      activation: Arguments for activations.
      weight: Arguments for weights.
    """

    observer: str | None = None
    tensors: tuple[str, ...]
    activation: Mapping[str, Argument] = dataclasses.field(default_factory=dict)
    weight: Mapping[str, Argument] = dataclasses.field(default_factory=dict)


def arguments_of(class_name: str, is_weight: bool) -> Mapping[str, Argument]:
    """Returns the arguments of a quantizer or observer by canonical name, without the arguments of its observer.

    Raises:
      ConfigError: The class is not in the tables below.
    """
    algorithm = QUANTIZERS.get(class_name) or OBSERVERS.get(class_name)
    if algorithm is None:
        known = (*QUANTIZERS, *OBSERVERS)
        raise ConfigError(f"'{class_name}' is not an algorithm of this package. {nearest_names(class_name, known)}")
    return algorithm.weight if is_weight else algorithm.activation


def default_of(class_name: str, argument: str, *, is_weight: bool = False) -> Any:
    """Returns the default of one argument of a quantizer or observer, for the signature of its constructor."""
    return arguments_of(class_name, is_weight)[argument].default


def canonical_names(args: Mapping[str, Any], arguments: Iterable[Argument]) -> dict[str, Any]:
    """Drops None values and renames aliases to canonical names; the canonical name wins if both are given."""
    names = {alias: argument.name for argument in arguments for alias in argument.aliases}
    given = {key: value for key, value in args.items() if value is not None}
    return {names.get(key, key): value for key, value in given.items() if key not in names or names[key] not in given}


def check_required(class_name: str, given: Iterable[str], arguments: Iterable[Argument], where: str) -> None:
    """Raises ConfigError if a required argument of ``class_name`` is not ``given``."""
    present = set(given)
    missing = next((one.name for one in arguments if one.is_required and one.name not in present), None)
    if missing is not None:
        raise ConfigError(f"{where}: {class_name} needs the argument '{missing}'.")


def _table(*arguments: Argument) -> Mapping[str, Argument]:
    return {argument.name: argument for argument in arguments}


def _flag(name: str, default: bool) -> Argument:
    return Argument(name=name, kind="bool", default=default)


def _choice(name: str, default: str | None, *allowed: str) -> Argument:
    return Argument(name=name, kind="string", default=default, allowed=allowed)


def _weight_bits(*allowed: int) -> Argument:
    """Returns num_bits of weights; another width gives the widest of ``allowed``, with a WARNING (spec 4.2)."""
    return Argument(name="num_bits", kind="int", default=allowed[-1], allowed=allowed, fallback=allowed[-1])


def _cluster_distance(name: str, alias: str, default: float, low: float, high: float) -> Argument:
    return Argument(name=name, kind="float", default=default, allowed=closed(low, high), aliases=(alias,))


_ACTIVATION_BITS = Argument(name="num_bits", kind="int", default=8, allowed=ACTIVATION_BITS)
_WEIGHT_BITS = _weight_bits(*WEIGHT_BITS)
_NON_UNIFORM_BITS = _weight_bits(NON_UNIFORM_BITS)
_CHANNEL_WISE = _flag("channel_wise", default=True)
_WITH_OFFSET = _flag("with_offset", default=True)
_LEGACY_SCALE = _flag("legacy_negative_full_scale", default=False)
_EPS = Argument(name="eps", kind="float", default=SMALLEST_SCALE, allowed=POSITIVE)
_OBJECT_LAYER = Argument(name="object_layer", kind="string")
_MAX_ITERATION = Argument(name="max_iteration", kind="int", default=1000, allowed=closed(500, 2000))
_MAX_VALUE_EPS = Argument(name="max_value_eps", kind="float", default=MAX_VALUE_EPS, allowed=POSITIVE)
_LUQ_QSCHEME = _choice("qscheme", "symmetric", "symmetric", "affine", "dynamic")


def _observer(default: str) -> Argument:
    return Argument(name="observer", kind="string", default=default)


def _percentile(name: str) -> Argument:
    return Argument(name=name, kind="float", default=getattr(IfmrOptions, name), allowed=above(0.5, 1.0))


def _ifmr_search(name: str) -> Argument:
    return Argument(
        name=name, kind="float", default=getattr(IfmrOptions, name), allowed=POSITIVE, usual=closed(0.7, 1.3)
    )


def _luq_search(name: str, default: float) -> Argument:
    return Argument(name=name, kind="float", default=default, allowed=closed(0.5, 1.5))


def _ifmr(num_bits: Argument) -> Mapping[str, Argument]:
    return _table(
        _OBJECT_LAYER,
        num_bits,
        Argument(name="batch_num", kind="int", default=1, allowed=at_least(1)),
        _WITH_OFFSET,
        _percentile("max_percentile"),
        _percentile("min_percentile"),
        _ifmr_search("search_start"),
        _ifmr_search("search_end"),
        Argument(name="search_step", kind="float", default=IfmrOptions.search_step, allowed=POSITIVE),
        _choice("qscheme", None, "symmetric", "affine"),
        _LEGACY_SCALE,
    )


def _luq_mse(num_bits: Argument) -> Mapping[str, Argument]:
    return _table(
        _LUQ_QSCHEME,
        Argument(name="quant_min", kind="int"),  # only Qmin and Qmax of num_bits make sense, see quantizer_check
        Argument(name="quant_max", kind="int"),
        _luq_search("search_start", 0.5),
        _luq_search("search_end", 1.5),
        Argument(name="steps", kind="int", default=100, allowed=at_least(2)),  # both ends are candidates
        num_bits,
    )


def _luq(num_bits: Argument) -> Mapping[str, Argument]:
    return _table(_observer("LuqMseObserver"), num_bits, _MAX_VALUE_EPS, _LUQ_QSCHEME, _WITH_OFFSET)


_ARQ = _table(_observer("ArqObserver"), _WEIGHT_BITS, _CHANNEL_WISE, _EPS)
_ULQ = _table(
    _observer("IFMRObserver"),
    _ACTIVATION_BITS,
    _flag("fixed_min", default=False),
    Argument(name="clip_max", kind="float", allowed=POSITIVE),
    Argument(name="clip_min", kind="float", allowed=NEGATIVE),
)
_LNQ = _table(
    _observer("SnqObserver"),
    _NON_UNIFORM_BITS,
    Argument(name="cluster_freq", kind="int", default=400, allowed=at_least(1)),
    _MAX_ITERATION,
    _cluster_distance("min_distance", "cali_min_distance", 1e-4, 1e-8, 1e-2),
    Argument(name="clip_max", kind="float", default=3.0, allowed=POSITIVE),
    _flag("symmetric", default=False),
    Argument(name="channel_wise", kind="bool", default=False, allowed=(False,), fallback=False),  # spec 6.4: no effect
)
_SNQ = _table(
    _NON_UNIFORM_BITS,
    _MAX_ITERATION,
    _cluster_distance("cali_min_distance", "min_distance", 1e-10, 1e-10, 1e-3),
    _CHANNEL_WISE,
    _choice("init_algo", "uniform", "uniform", "gaussian", "d2sampling"),
)
_SNQ_WEIGHT = _table(_observer("SnqObserver"), *_SNQ.values())
_FIXED_ACTIVATION = _table(
    Argument(name="scale", kind="float", allowed=POSITIVE, is_required=True),
    Argument(name="zero_point", kind="int", aliases=("offset",), is_required=True),
    _ACTIVATION_BITS,
)
_FIXED_WEIGHT = _table(Argument(name="scale", kind="floats", allowed=POSITIVE, is_required=True), _WEIGHT_BITS)
_BOTH = ("activation", "weight")

QUANTIZERS: Mapping[str, Algorithm] = {
    "UlqFakeQuantize": Algorithm(observer="IFMRObserver", tensors=("activation",), activation=_ULQ),
    "LuqActivationFakeQuantize": Algorithm(
        observer="LuqMseObserver", tensors=("activation",), activation=_luq(_ACTIVATION_BITS)
    ),
    "LuqWeightFakeQuantize": Algorithm(observer="LuqMseObserver", tensors=("weight",), weight=_luq(_weight_bits(8))),
    "ArqWeightFakeQuantize": Algorithm(observer="ArqObserver", tensors=("weight",), weight=_ARQ),
    "LnqFakeQuantize": Algorithm(observer="SnqObserver", tensors=("weight",), weight=_LNQ),
    "SnqWeightFakeQuantize": Algorithm(observer="SnqObserver", tensors=("weight",), weight=_SNQ_WEIGHT),
    "FixedFakeQuantize": Algorithm(tensors=_BOTH, activation=_FIXED_ACTIVATION, weight=_FIXED_WEIGHT),
}
OBSERVERS: Mapping[str, Algorithm] = {
    "IFMRObserver": Algorithm(tensors=_BOTH, activation=_ifmr(_ACTIVATION_BITS), weight=_ifmr(_WEIGHT_BITS)),
    "LuqMseObserver": Algorithm(tensors=_BOTH, activation=_luq_mse(_ACTIVATION_BITS), weight=_luq_mse(_weight_bits(8))),
    "ArqObserver": Algorithm(tensors=("weight",), weight=_table(_WEIGHT_BITS, _CHANNEL_WISE, _EPS, _LEGACY_SCALE)),
    "SnqObserver": Algorithm(tensors=("weight",), weight=_SNQ),
}
