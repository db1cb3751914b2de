"""The settings of the dynamic path for the whole model, common to .cfg and config.json (spec 9.2 - 9.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...log import get_logger
from ..arguments.algorithms import canonical_names
from ..arguments.argument import Argument
from ..arguments.coercion import report_unknown
from ..arguments.ranges import at_least, between

_log = get_logger(__name__)

VERSION = Argument(name="version", kind="int", default=1, allowed=(1,), fallback=1)
BATCH_NUM = Argument(name="batch_num", kind="int", default=1, allowed=at_least(1))
ACTIVATION_OFFSET = Argument(name="activation_offset", kind="bool", default=True)
DO_FUSION = Argument(name="do_fusion", kind="bool", default=True)
UPDATE_BN = Argument(name="update_bn", kind="bool", default=False)
RETRAIN_SECTIONS = ("retrain_data_config", "retrain_weight_config")  # of a layer
_BN_MOMENTUM = Argument(
    name="bn_momentum",
    kind="float",
    default=0.1,
    allowed=between(0, 1),
    aliases=("bn_moving_average_fraction",),
)
_BN_ITERATIONS = Argument(name="bn_update_iterations", kind="int", default=30, allowed=between(0, 1000))
_BN_KEYS = (_BN_MOMENTUM.name, *_BN_MOMENTUM.aliases, _BN_ITERATIONS.name, "bn_dump_dir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BnUpdateConfig:
    """How the BatchNorms are updated after non-uniform quantization (spec 3).

    Attributes:
      bn_momentum: Share of a batch's statistics in the running statistics, (0, 1).
      bn_update_iterations: Number of forwards that the user runs for the update, (0, 1000).
    """

    bn_momentum: float = 0.1
    bn_update_iterations: int = 30


def read_global(argument: Argument, document: Mapping[str, Any], source: str) -> Any:
    """Returns the checked value of ``argument`` in ``document``; its default if the key is absent.

    Raises:
      ConfigError: Wrong type or out of range.
    """
    value = canonical_names(document, (argument,)).get(argument.name)
    return argument.default if value is None else argument.read(value, source)


def read_bn_update(given: Mapping[str, Any], is_used: bool, source: str) -> BnUpdateConfig:
    """Returns the checked ``bn_update_config``; if it is not used (``update_bn`` false), the defaults, with a WARNING.

    Raises:
      ConfigError: Wrong type or out of range.
    """
    where = f"{source}: bn_update_config"
    if not is_used:
        if given:
            _log.warning("%s is ignored, since update_bn is false.", where)
        return BnUpdateConfig()
    report_unknown(given, _BN_KEYS, where)
    return BnUpdateConfig(
        bn_momentum=read_global(_BN_MOMENTUM, given, where),
        bn_update_iterations=read_global(_BN_ITERATIONS, given, where),
    )
