"""Constructor arguments of observers and quantizers: each value is checked once, and the class of the observer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from ..config.arguments.algorithms import OBSERVERS, QUANTIZERS, arguments_of
from ..config.arguments.argument import Argument
from ..config.arguments.quantizer_check import check_values, known_arguments
from ..errors import ConfigError
from .observers.observation import RangeObserver, WeightObserver
from .observers.torch_observer import TorchRangeObserver

_Object = TypeVar("_Object")


def take_checked_values(cls: type, name: str, is_weight: bool) -> None:
    """Wraps the constructor of ``cls``, registered as ``name``: it checks its arguments and uses the checked values.

    Arguments that ``cls`` passes on to its observer are checked too. Arguments that neither of them knows are passed on
    unchanged.
    """
    init = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        given = _by_name(signature, self, args, kwargs)
        observer = given.pop("observer", None)
        layer = f"Layer '{given['object_layer']}', " if given.get("object_layer") else ""
        values, others = check_values(name, given, _known(name, observer, is_weight), f"{layer}{name}")
        if observer is not None:
            others["observer"] = observer
        init(self, **values, **others)

    cls.__init__ = checked  # type: ignore[misc]


def build(cls: type[_Object], args: Mapping[str, Any]) -> _Object:
    """Returns ``cls(**args)`` without another check of ``args``, for a class that `take_checked_values` has wrapped."""
    made = cls.__new__(cls)
    getattr(cls.__init__, "__wrapped__", cls.__init__)(made, **args)
    return made


def is_foreign(observer: object) -> bool:
    """Whether ``observer`` is an observer class from outside this package, e.g. torch.quantization.MinMaxObserver."""
    is_own = isinstance(observer, type) and issubclass(observer, RangeObserver | WeightObserver)
    return isinstance(observer, type) and hasattr(observer, "calculate_qparams") and not is_own


def symmetry_args(observer: Any, qscheme: str | None, with_offset: bool | None) -> dict[str, Any]:
    """Returns LUQ's two arguments for symmetry as arguments of the class ``observer``; None means not given."""
    source: type[RangeObserver] = TorchRangeObserver if is_foreign(observer) else observer
    return source.symmetry_args(qscheme, with_offset)


def make_observer(cls: type[_Object], expected: type, layer: str, **args: Any) -> _Object:
    """Returns a new observer for a quantizer; ``args`` were checked together with the quantizer's arguments.

    Raises:
      ConfigError: ``cls`` is no observer of the ``expected`` kind.
    """
    if expected is RangeObserver and is_foreign(cls):
        return cast("_Object", TorchRangeObserver(cls, object_layer=layer, **args))
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        name = getattr(cls, "__name__", repr(cls))
        msg = f"Layer '{layer}': observer {name} cannot be used here, a {expected.__name__} is expected."
        raise ConfigError(msg)
    return build(cls, {"object_layer": layer, **args})


def _by_name(signature: inspect.Signature, *call: Any) -> dict[str, Any]:
    """Returns the arguments of a call by name; ``search_range`` is kept, though it sets two arguments (spec 5.1)."""
    instance, args, kwargs = call
    beside = {name: kwargs[name] for name in ("search_range",) if name in kwargs}
    rest = {name: value for name, value in kwargs.items() if name not in beside}
    given = signature.bind(instance, *args, **rest).arguments
    instance_name = next(iter(signature.parameters))
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            beside |= given.pop(name, {})
    return {**{name: value for name, value in given.items() if name != instance_name}, **beside}


def _known(name: str, observer: Any, is_weight: bool) -> Mapping[str, Argument]:
    """Returns the known arguments of ``name`` and its observer; those of a class from outside are not known."""
    if name not in QUANTIZERS:
        return arguments_of(name, is_weight)
    if observer is None:
        return known_arguments(name, QUANTIZERS[name].observer, is_weight)
    ours = getattr(observer, "__name__", None)
    return known_arguments(name, ours if ours in OBSERVERS and not is_foreign(observer) else None, is_weight)
