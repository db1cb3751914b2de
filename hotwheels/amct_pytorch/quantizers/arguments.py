"""What the constructors of observers and quantizers check: arguments, and the kind of observer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..config import algorithms
from ..errors import ConfigError

_Observer = TypeVar("_Observer")


def check_arguments(cls: type, is_weight: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the checked values of a constructor's arguments; ``given`` is its ``locals()``.

    A weight width that the hardware lacks is replaced with a WARNING (SPEC 4.2), so the values returned are to be used.

    Raises:
      ConfigError: One is outside its range.
    """
    table = algorithms.arguments_of(cls.__name__, is_weight)
    args = {name: value for name, value in given.items() if name in table and name != "observer"}
    return algorithms.check_arguments(cls.__name__, is_weight, args, f"Layer '{given.get('object_layer', '')}'")


def make_observer(cls: type[_Observer], expected: type, layer: str, **args: Any) -> _Observer:
    """Returns a new observer for a quantizer; ``args`` are checked by its own constructor.

    Raises:
      ConfigError: ``cls`` is no observer of the ``expected`` kind.
    """
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        name = getattr(cls, "__name__", repr(cls))
        msg = f"Layer '{layer}': observer {name} cannot be used here, a {expected.__name__} is expected."
        raise ConfigError(msg)
    return cls(object_layer=layer, **args)  # type: ignore[call-arg]
