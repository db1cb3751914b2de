"""The packages whose classes a configuration may name (docs/security.md)."""

from __future__ import annotations

import os

from ...errors import ConfigError

VARIABLE = "AMCT_QUANTIZER_MODULES"
# Always allowed: importing these packages runs no code of a stranger.
_OWN = ("torch", "hotwheels.amct_pytorch", "picovision")
_allowed: tuple[str, ...] | None = None


def allow_quantizers(*packages: str) -> None:
    """Restricts the classes that configurations may name to torch, this package and ``packages``.

    Without this call, and without the environment variable ``AMCT_QUANTIZER_MODULES``, a configuration may name a
    quantizer of any package that can be imported, and importing a package runs its code. Call it before you read files
    of other people; each call replaces the packages of the call before. Those in the variable, separated by commas,
    are allowed as well.

    Args:
      *packages: Dotted names, such as ``my_package.quantizers``; packages inside them are allowed too. Without names
        only torch and this package are allowed.

    Raises:
      TypeError: A name is no string.
      ConfigError: A name is no dotted name.
    """
    global _allowed
    _allowed = tuple(_checked(one) for one in packages)


def is_trusted(name: str) -> bool:
    """Whether the module or path ``name`` may be imported for a quantizer or an observer."""
    allowed = _restriction()
    return allowed is None or is_inside(name, (*_OWN, *allowed))


def is_named(name: str, home: str) -> bool:
    """Whether ``name`` is of torch, of an allowed package or of the package of ``home``, so may become an argument."""
    return is_inside(name, (*_OWN, *(_restriction() or ()), home.partition(".")[0]))


def is_inside(name: str, packages: tuple[str, ...]) -> bool:
    """Whether ``name`` is one of ``packages`` or inside one of them."""
    return any(name == one or name.startswith(f"{one}.") for one in packages)


def _restriction() -> tuple[str, ...] | None:
    """Returns the packages that are allowed beside `_OWN`; None if all packages are allowed."""
    value = os.environ.get(VARIABLE)
    if value is None:
        return _allowed
    named = tuple(_checked(one.strip()) for one in value.split(",") if one.strip())
    return (*named, *(_allowed or ()))


def _checked(package: str) -> str:
    if not isinstance(package, str):
        raise TypeError(f"allow_quantizers(): a package must be a string, not {type(package).__name__}.")
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigError(f"'{package}' is no name of a package, as {VARIABLE} and allow_quantizers take it.")
    return package
