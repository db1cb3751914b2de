"""Makes and checks the plan of a configuration, on both paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..config.fx.json_config import check_any_enabled
from ..config.layers.quant_config import QuantConfig
from ..errors import UnsupportedModelError
from ..graph import OpGraph
from ..log import get_logger
from ..plan.checks import Violation, find_violations
from ..plan.planner import make_plan
from ..plan.quant_plan import QuantPlan

_log = get_logger(__name__)


def checked_plan(graph: OpGraph, config: QuantConfig, tell: Callable[[Sequence[Violation]], None]) -> QuantPlan:
    """Returns the plan of ``graph`` with ``config``; calls ``tell`` with the rules of the hardware that are broken.

    Raises:
      ConfigError: No layer is enabled.
    """
    check_any_enabled(config)
    tell(find_violations(graph, config))
    plan = make_plan(graph, config)
    for skip in plan.skips:
        _log.debug("Layer '%s' is not quantized: %s.", skip.name, skip.reason)
    return plan


def warn(violations: Sequence[Violation]) -> None:
    """Logs a WARNING for each broken rule: on the FX path they are no errors (spec 13.1)."""
    for one in violations:
        _log.warning("%s", one.reason)


def refuse(violations: Sequence[Violation]) -> None:
    """Raises UnsupportedModelError with all rules of the hardware that are broken, each with its repair."""
    if violations:
        lines = [f"- {one.reason}\n  Repair: {one.repair}." for one in violations]
        title = "The model cannot be quantized with this configuration, rules of the hardware are broken:"
        raise UnsupportedModelError("\n".join([title, *lines]))
