"""Chooses one setting for each layer: an exact integer linear program."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError

Widths = tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One setting that a layer may have.

    Attributes:
      name: Of the setting, unique in its layer.
      cost: What it costs, 0 or more.
      noise: Power of the error at the output of the network that it makes, relative to the output's power.
      widths: The width of each quantizable input; None for an input in float.
    """

    name: str
    cost: float
    noise: float
    widths: Widths


Options = Mapping[str, Sequence[Option]]
Tie = tuple[tuple[str, int], tuple[str, int]]  # two inputs, each a layer and a position, that must have one width


def cheapest(options: Options, ties: Sequence[Tie], most_noise: float) -> dict[str, Option] | None:
    """Returns the cheapest choice whose noise is ``most_noise`` or less; None if there is none."""
    return _solve(options, ties, least="cost", limited="noise", limit=most_noise)


def quietest(options: Options, ties: Sequence[Tie], budget: float) -> dict[str, Option] | None:
    """Returns the choice with the least noise that costs ``budget`` or less; None if there is none."""
    return _solve(options, ties, least="noise", limited="cost", limit=budget)


def _solve(
    options: Options, ties: Sequence[Tie], *, least: str, limited: str, limit: float
) -> dict[str, Option] | None:
    """Minimizes the sum of ``least`` with the sum of ``limited`` at most ``limit``, one option per layer."""
    optimize = _scipy()
    flat = [(layer, one) for layer, several in options.items() for one in several]
    rows = [_one_per_layer(layer, flat) for layer in options]
    equal_to = [1.0] * len(rows)
    for tie in ties:
        tied = _same_width(tie, flat)
        rows += tied
        equal_to += [0.0] * len(tied)
    sums = {name: np.array([getattr(one, name) for _, one in flat], dtype=np.float64) for name in (least, limited)}
    # HiGHS takes coefficients below 1e-9 for 0, and noise is that small: both sums are in units of their largest term.
    units = {name: float(values.max()) or 1.0 for name, values in sums.items()}
    found = optimize.milp(
        sums[least] / units[least],
        constraints=[
            optimize.LinearConstraint(np.array(rows), equal_to, equal_to),
            optimize.LinearConstraint(sums[limited][None] / units[limited], -np.inf, limit / units[limited]),
        ],
        integrality=np.ones(len(flat)),
        bounds=optimize.Bounds(0, 1),
    )
    if found.x is None:
        return None
    return {layer: one for (layer, one), is_taken in zip(flat, found.x > 0.5, strict=True) if is_taken}


def _one_per_layer(layer: str, flat: Sequence[tuple[str, Option]]) -> np.ndarray[Any, Any]:
    return np.array([float(owner == layer) for owner, _ in flat])


def _same_width(tie: Tie, flat: Sequence[tuple[str, Option]]) -> list[np.ndarray[Any, Any]]:
    """One row per width: the two inputs have that width both or neither."""
    (first, index), (second, other) = tie
    widths = dict.fromkeys(one.widths[place] for owner, one in flat for layer, place in tie if owner == layer)
    return [
        np.array(
            [
                float(owner == first and one.widths[index] == width)
                - float(owner == second and one.widths[other] == width)
                for owner, one in flat
            ]
        )
        for width in widths
    ]


def _scipy() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise ConfigError("auto_quantize needs scipy for its solver: pip install 'scipy>=1.9'.") from error
    return optimize
