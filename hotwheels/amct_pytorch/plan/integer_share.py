"""IntegerShare: which multiplications of a model run on integers, and which BatchNorms are not folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..graph import OpGraph, Skip

# Below this share a network is not completely on integers; multiplications in float are slow on the chip, or refused.
WANTED_SHARE = 0.999


@dataclasses.dataclass(frozen=True)
class NormLeft(Skip):
    """A BatchNorm that is not folded.

    Attributes:
      is_foldable: Whether it would be folded exactly if the user allowed it, or said more.
    """

    is_foldable: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegerShare:
    """The multiplications of one forward, counted by torch's flop counter: products, convolutions, attention.

    Attributes:
      integer: Number of multiplications in quantized layers.
      floating: Number of multiplications elsewhere, by node, in execution order. Nodes computed from constants alone
        are left out, since exported files hold their results, and nodes that no output depends on.
      reasons: Why the nodes in ``floating`` are in float.
      batch_norms: The BatchNorms that are not folded, with the reason.
    """

    integer: int
    floating: Mapping[str, int]
    reasons: Mapping[str, str]
    batch_norms: tuple[NormLeft, ...] = ()

    @property
    def total(self) -> int:
        """Number of all multiplications."""
        return self.integer + sum(self.floating.values())

    @property
    def share(self) -> float:
        """Share of the multiplications that run on integers, 1 for a model without any."""
        return self.integer / self.total if self.total else 1.0

    @property
    def is_sufficient(self) -> bool:
        """Whether at least `WANTED_SHARE` of the multiplications run on integers, and no foldable BatchNorm is left."""
        return self.share >= WANTED_SHARE and not self.foldable

    @property
    def foldable(self) -> tuple[NormLeft, ...]:
        """The BatchNorms that are left although they could be folded."""
        return tuple(one for one in self.batch_norms if one.is_foldable)

    @property
    def shortcomings(self) -> str:
        """What is missing for `is_sufficient`, as sentences; empty if nothing is."""
        found = []
        if self.share < WANTED_SHARE:
            found.append(f"At least {100 * WANTED_SHARE:.1f} % of the multiplications are wanted on integers.")
        found += [f"BatchNorm '{one.name}' is not folded: {one.reason}." for one in self.foldable]
        return " ".join(found)

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers as plain values."""
        return {
            "share": self.share,
            "integer": self.integer,
            "floating": dict(self.floating),
            "reasons": dict(self.reasons),
            "foldable": [one.name for one in self.foldable],
            "batch_norms": {one.name: one.reason for one in self.batch_norms},
        }

    def __str__(self) -> str:
        """Returns one line, for the log."""
        left = f"; {len(self.batch_norms)} BatchNorm(s) left" if self.batch_norms else ""
        return f"{100 * self.share:.2f} % of {self.total:.3g} multiplications run on integers{left}"


def integer_share(counted: Mapping[str, int], quantized: frozenset[str], graph: OpGraph) -> IntegerShare:
    """Returns the share for multiplications ``counted`` by node; the nodes ``quantized`` compute on integers."""
    floating = {name: count for name, count in counted.items() if count and name not in quantized}
    return IntegerShare(
        integer=sum(count for name, count in counted.items() if name in quantized),
        floating=floating,
        reasons={name: _reason(graph, name) for name in floating},
        batch_norms=batch_norms_left(graph),
    )


def batch_norms_left(graph: OpGraph) -> tuple[NormLeft, ...]:
    """Returns the BatchNorms that are not folded into a weight, with the reason."""
    left = (node for node in graph if node.unfolded_reason)
    return tuple(NormLeft(node.name, str(node.unfolded_reason), node.is_foldable) for node in left)


def _reason(graph: OpGraph, name: str) -> str:
    node = graph.nodes.get(name)
    if node is None or node.op is None:
        return "no layer" if node is None else node.unquantizable or "it is no operation that can be quantized"
    return node.unquantizable or "quant_enable is false"
