"""RefineConfig: the ``refine`` section of a simple yaml and of config.json (spec 8.7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from typing import Any

from ...errors import ConfigError, nearest_names
from ...graph import OpGraph
from ..arguments.coercion import as_int, as_names, as_object, as_switch, report_unknown, shown

COMPENSATED_ROUNDING = "compensated_rounding"
BIAS_CORRECTION = "bias_correction"
LEARNED_ROUNDING = "learned_rounding"
METHODS = (COMPENSATED_ROUNDING, LEARNED_ROUNDING, BIAS_CORRECTION)
DEFAULT_METHODS = (COMPENSATED_ROUNDING, BIAS_CORRECTION)  # learning takes several times as long
REFINE = "refine"  # the key in both files

_KEYS = ("methods", "seed", "pictures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """A request to run `amct.refine` on the first pictures of calibration.

    Attributes:
      methods: Each method with its layers or layer types; None for all.
      seed: As in `amct.refine`.
      pictures: Number of calibration pictures that are kept for the refinement.
    """

    methods: Mapping[str, tuple[str, ...] | None] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(DEFAULT_METHODS)
    )
    seed: int = 0
    pictures: int = 32


def read_refine(value: object, where: str) -> RefineConfig | None:
    """Returns the section; None if it is missing or false. A method or a list stands for its ``methods``.

    Raises:
      ConfigError: A method is unknown, or a value has the wrong type.
    """
    if isinstance(value, list) or value in METHODS:
        return RefineConfig(methods=_methods(value, where))
    if value is not None and not isinstance(value, Mapping):
        if as_switch(value) is None:
            raise ConfigError(
                f"{where} is {shown(value)}; allowed: true, false, a method, a list of methods, or an object with the"
                f" keys {', '.join(_KEYS)}."
            )
        value = {} if as_switch(value) else None
    if value is None:
        return None
    given = as_object(value, where)
    report_unknown(given, _KEYS, where)
    pictures = as_int(given.get("pictures", RefineConfig.pictures), f"{where}.pictures")
    if pictures < 1:
        raise ConfigError(f"{where}.pictures is {pictures}; allowed: 1 and more.")
    return RefineConfig(
        methods=_methods(given.get("methods"), f"{where}.methods"),
        seed=as_int(given.get("seed", RefineConfig.seed), f"{where}.seed"),
        pictures=pictures,
    )


def is_refine_section(document: Mapping[str, Any], graph: OpGraph) -> bool:
    """Whether the key ``refine`` of a config.json for the model ``graph`` is the section, and no layer of that name."""
    return REFINE in document and REFINE not in graph.layers


def refine_section(config: RefineConfig | None, layers: Container[str], path: object) -> dict[str, Any]:
    """Returns the key and section that the config.json at ``path`` gets beside its ``layers``; empty without section.

    Raises:
      ConfigError: There is a section, and a layer has that name.
    """
    if config is None:
        return {}
    if REFINE in layers:
        raise ConfigError(
            f"{path}: the model has a layer called '{REFINE}', so config.json cannot hold a section of that name."
            " Leave the section out and call amct.refine after calibration."
        )
    return {REFINE: refine_document(config)}


def refine_document(config: RefineConfig) -> dict[str, Any]:
    """Returns the section of config.json for ``config``, the inverse of `read_refine`."""
    methods = {name: None if layers is None else list(layers) for name, layers in config.methods.items()}
    return {"methods": methods, "seed": config.seed, "pictures": config.pictures}


def _methods(value: object, where: str) -> Mapping[str, tuple[str, ...] | None]:
    if value is None:
        return dict.fromkeys(DEFAULT_METHODS)
    if isinstance(value, Mapping):
        layers = as_object(value, where)
        chosen = {one: None if names is None else as_names(names, f"{where}.{one}") for one, names in layers.items()}
    else:
        chosen = dict.fromkeys(as_names(value, where))
    for method in chosen:
        if method not in METHODS:
            raise ConfigError(f"{where}: unknown method '{method}'. {nearest_names(method, METHODS)}")
    return chosen
