"""Makes and checks the plan of a configuration, on both paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..config.fx.json_config import check_any_enabled
from ..config.layers.quant_config import QuantConfig
from ..errors import UnsupportedModelError
from ..files import PathLike
from ..graph import OpGraph
from ..log import get_logger, listed
from ..plan.checks import Violation, find_violations
from ..plan.planner import make_plan
from ..plan.quant_plan import QuantPlan

_log = get_logger(__name__)
_MOST_REASONS = 5  # of one repair
_MOST_NAMES = 20


def checked_plan(
    graph: OpGraph,
    config: QuantConfig,
    path: PathLike,
    tell: Callable[[Sequence[Violation]], None],
    *,
    allows_cube_only: bool = False,
) -> QuantPlan:
    """Returns the plan that ``config``, read from ``path``, makes of ``graph``.

    ``tell`` gets the rules of the hardware that are broken; ``allows_cube_only`` as in `find_violations`.

    Raises:
      ConfigError: No layer is enabled.
    """
    check_any_enabled(config, path)
    tell(find_violations(graph, config, allows_cube_only=allows_cube_only))
    plan = make_plan(graph, config)
    for skip in plan.skips:
        _log.debug("Layer '%s' is not quantized: %s.", skip.name, skip.reason)
    return plan


def warn(violations: Sequence[Violation]) -> None:
    """Writes a WARNING for each rule that is broken, with all places: on the FX path they are no errors (spec 13.1)."""
    broken: dict[int, list[Violation]] = {}
    for one in violations:
        broken.setdefault(one.rule, []).append(one)
    for places in broken.values():
        first = places[0]
        more = " The others likewise." if len(places) > 1 else ""
        _log.warning("%s\nRepair of '%s': %s.%s", "\n".join(_reasons(places)), first.name, first.repair, more)


def refuse(violations: Sequence[Violation]) -> None:
    """Raises UnsupportedModelError with the rules of the hardware that are broken; a repair of several has one line."""
    by_repair: dict[str, list[Violation]] = {}
    for one in violations:
        by_repair.setdefault(one.repair, []).append(one)
    if by_repair:
        title = "The model cannot be quantized with this configuration, rules of the hardware are broken:"
        lines = [
            line
            for repair, places in by_repair.items()
            for line in (*(f"- {reason}" for reason in _reasons(places)), f"  Repair: {repair}.")
        ]
        raise UnsupportedModelError("\n".join([title, *lines]))


def _reasons(places: Sequence[Violation]) -> list[str]:
    """Returns the reasons of the first ``places``, and the names of some of the others."""
    reasons = [one.reason for one in places[:_MOST_REASONS]]
    others = [f"'{one.name}'" for one in places[_MOST_REASONS:]]
    return [*reasons, f"{len(others)} more: {listed(others, _MOST_NAMES, ', ')}"] if others else reasons
