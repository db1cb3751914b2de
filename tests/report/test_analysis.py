"""The numbers of the error analysis against NumPy and against literal values."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.graph import Skip
from hotwheels.amct_pytorch.report.analysis import (
    BINS,
    Analysis,
    Difference,
    LayerChange,
    LayerEffect,
    NodeSimilarity,
    compare,
    describe_change,
    floating_tensors,
    group_by_size,
    why_incomparable,
)

GOOD = Difference(sqnr_db=40.0, cosine=0.99, max_error=0.1)
BAD = Difference(sqnr_db=10.0, cosine=0.9, max_error=0.5)


def test_difference_of_two_tensors() -> None:
    found = compare(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5]))
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25))
    assert found.cosine == pytest.approx(23 / (5 * math.hypot(3, 3.5)))
    assert found.max_error == 0.5
    assert found.left_out == 0


def test_equal_tensors_are_infinitely_close() -> None:
    x = torch.randn(2, 3)
    assert compare(x, x) == Difference(sqnr_db=math.inf, cosine=pytest.approx(1.0), max_error=0.0)


def test_elements_that_are_not_finite_are_counted_and_left_out() -> None:
    before = torch.tensor([3.0, -math.inf, 1.0, math.nan, 4.0])
    after = torch.tensor([3.0, -math.inf, math.inf, 2.0, 3.5])
    expected = compare(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5]))
    assert compare(before, after) == dataclasses.replace(expected, left_out=3)


@dataclasses.dataclass(frozen=True)
class Incomparable:
    name: str
    before: torch.Tensor
    after: torch.Tensor
    reason: str


INCOMPARABLE = [
    Incomparable("shapes", torch.zeros(2), torch.zeros(3), "its shape depends on the data: (2,) in float, (3,) with"),
    Incomparable("empty", torch.zeros(0), torch.zeros(0), "it has no elements"),
    Incomparable("infinite", torch.tensor([math.inf]), torch.zeros(1), "it has no element that is finite in both"),
]


@pytest.mark.parametrize("case", INCOMPARABLE, ids=lambda case: case.name)
def test_what_cannot_be_compared_has_a_reason(case: Incomparable) -> None:
    assert (why_incomparable(case.before, case.after) or "").startswith(case.reason)


def test_tensors_of_one_shape_can_be_compared() -> None:
    assert why_incomparable(torch.zeros(2), torch.ones(2)) is None


@pytest.mark.parametrize("shift", [0.0, 100.0], ids=["around zero", "far from zero"])
def test_distributions_follow_numpy_on_common_bins(shift: float) -> None:
    before = torch.randn(4, 500) + shift
    after = before * 1.5
    change = describe_change(before, after)
    low, high = min(float(before.min()), float(after.min())), max(float(before.max()), float(after.max()))
    assert (change.low, change.high) == (low, high)
    for found, tensor in ((change.before, before), (change.after, after)):
        values = tensor.numpy().astype(np.float64)
        assert (found.minimum, found.maximum) == (values.min(), values.max())
        assert found.mean == pytest.approx(values.mean())
        assert found.std == pytest.approx(values.std())
        wanted = np.histogram(values, bins=BINS, range=(low, high))[0]
        # Values beside an edge may fall to either side of it: torch multiplies where NumPy divides.
        assert np.abs(np.array(found.counts) - wanted).sum() <= 4
        assert sum(found.counts) == values.size


@pytest.mark.parametrize("value", [0.0, 1e-30, -3.0, 1e30])
def test_a_constant_has_a_histogram_with_one_bar(value: float) -> None:
    x = torch.full((5,), value)
    change = describe_change(x, x)
    assert change.low < value < change.high
    assert [count for count in change.before.counts if count] == [5]
    assert change.before.std == 0.0


def test_a_single_element_has_a_std() -> None:
    assert describe_change(torch.tensor(2.0), torch.tensor(2.5)).after.std == 0.0


def test_tensors_of_a_tuple_are_named_by_index() -> None:
    result = (torch.zeros(1), torch.zeros(1, dtype=torch.int64), 3, torch.ones(2))
    assert [name for name, _ in floating_tensors("split", result)] == ["split[0]", "split[3]"]
    assert [name for name, _ in floating_tensors("conv", torch.zeros(1))] == ["conv"]
    assert list(floating_tensors("size", torch.Size([1, 2]))) == []


def test_groups_hold_no_more_than_the_limit() -> None:
    sizes = {"a": 4, "b": 4, "c": 3, "huge": 99, "d": 1}
    assert group_by_size(sizes, 10) == [{"a", "b"}, {"c"}, {"huge"}, {"d"}]
    assert group_by_size({}, 10) == []


def test_the_worst_output_stands_for_the_layer() -> None:
    effect = LayerEffect(name="conv", op="conv2d", outputs={0: GOOD, 2: BAD})
    assert effect.worst_output == 2
    assert effect.worst == BAD


def test_the_dict_is_made_of_plain_values() -> None:
    change = describe_change(torch.randn(9), torch.randn(9))
    analysis = Analysis(
        model="Net",
        inputs="(1, 3) float32",
        layerwise=(LayerEffect(name="conv", op="conv2d", outputs={0: GOOD, 1: BAD}),),
        graphwise=(NodeSimilarity(name="conv", is_quantized=True, fake_quant=GOOD, real_quant=BAD),),
        statistic=(LayerChange(name="conv", op="conv2d", output=change, weight=None),),
        outputs={"fake_quant": {0: GOOD}},
        skipped=(Skip("boxes", "its shape depends on the data"),),
    )
    found = analysis.as_dict()
    good, bad = dataclasses.asdict(GOOD), dataclasses.asdict(BAD)
    assert found["layerwise"] == {"conv": {**bad, "op": "conv2d", "outputs": {0: good, 1: bad}}}
    assert found["graphwise"] == {
        "conv": {"is_quantized": True, "fake_quant": good, "real_quant": bad, "max_lsb": None}
    }
    assert found["statistic"]["conv"]["output"] == dataclasses.asdict(change)
    assert found["statistic"]["conv"]["weight"] is None
    assert found["outputs"] == {"fake_quant": {0: good}}
    assert found["skipped"] == {"boxes": "its shape depends on the data"}
    json.dumps(found)
