"""What the constructors of observers and quantizers check: arguments, and the kind of observer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from ..config.arguments import algorithms, quantizer_check
from ..errors import ConfigError
from .observers.observation import RangeObserver, WeightObserver
from .observers.torch_observer import TorchRangeObserver

_Observer = TypeVar("_Observer")


def check_arguments(cls: type, is_weight: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the checked values of a constructor's arguments; ``given`` is its ``locals()``.

    A weight width that the hardware lacks is replaced with a WARNING (spec 4.2), so the values returned are to be used.

    Raises:
      ConfigError: One is outside its range.
    """
    table = algorithms.arguments_of(cls.__name__, is_weight)
    args = {name: value for name, value in given.items() if name in table and name != "observer"}
    where = f"Layer '{given.get('object_layer', '')}'"
    checked = algorithms.check_arguments(cls.__name__, is_weight, args, where)
    quantizer_check._check_search(checked, table, where)
    return checked


def is_foreign(observer: object) -> bool:
    """Whether ``observer`` is an observer class that is not ours, such as torch.quantization.MinMaxObserver."""
    is_own = isinstance(observer, type) and issubclass(observer, RangeObserver | WeightObserver)
    return isinstance(observer, type) and hasattr(observer, "calculate_qparams") and not is_own


def symmetry_args(observer: Any, qscheme: str | None, with_offset: bool | None) -> dict[str, Any]:
    """Returns the arguments of ``observer`` that say what LUQ's two words for symmetry say; None: not given."""
    source: type[RangeObserver] = TorchRangeObserver if is_foreign(observer) else observer
    return source.symmetry_args(qscheme, with_offset)


def make_observer(cls: type[_Observer], expected: type, layer: str, **args: Any) -> _Observer:
    """Returns a new observer for a quantizer; ``args`` are checked by its own constructor.

    Raises:
      ConfigError: ``cls`` is no observer of the ``expected`` kind.
    """
    if expected is RangeObserver and is_foreign(cls):
        return cast(_Observer, TorchRangeObserver(cls, object_layer=layer, **args))
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        name = getattr(cls, "__name__", repr(cls))
        msg = f"Layer '{layer}': observer {name} cannot be used here, a {expected.__name__} is expected."
        raise ConfigError(msg)
    return cls(object_layer=layer, **args)  # type: ignore[call-arg]
