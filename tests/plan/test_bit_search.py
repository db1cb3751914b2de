"""The solver finds what trying every choice finds."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.plan.bit_search import Option, cheapest, quietest

LAYERS = ("a", "b", "c")


@st.composite
def problems(draw):
    number = st.integers(0, 50).map(lambda one: one / 7)
    options = {
        layer: [
            Option(
                name=str(index),
                cost=draw(number),
                noise=draw(number) * draw(st.sampled_from((1.0, 1e-7))),
                widths=(draw(st.sampled_from((8, 16, None))), 8),
            )
            for index in range(draw(st.integers(1, 3)))
        ]
        for layer in LAYERS
    }
    pairs = list(itertools.combinations([(layer, index) for layer in LAYERS for index in (0, 1)], 2))
    return options, draw(st.lists(st.sampled_from(pairs), max_size=2))


def choices(options, ties):
    for taken in itertools.product(*options.values()):
        choice = dict(zip(options, taken, strict=True))
        if all(choice[a].widths[i] == choice[b].widths[j] for (a, i), (b, j) in ties):
            yield choice


def total(choice, what):
    return sum(getattr(one, what) for one in choice.values())


@given(problems(), st.integers(0, 150).map(lambda one: one / 7))
@settings(max_examples=150)
def test_solver_against_trying_every_choice(problem, limit) -> None:
    options, ties = problem
    for solve, least, limited in ((cheapest, "cost", "noise"), (quietest, "noise", "cost")):
        found = solve(options, ties, limit + 1e-5)
        allowed = [one for one in choices(options, ties) if total(one, limited) <= limit + 1e-5]
        if not allowed:
            assert found is None or total(found, limited) < limit + 1e-3  # the tolerance of the solver
            continue
        assert found is not None
        assert all(found[a].widths[i] == found[b].widths[j] for (a, i), (b, j) in ties)
        assert total(found, limited) <= limit + 1e-3
        assert total(found, least) <= min(total(one, least) for one in allowed) + 1e-3
