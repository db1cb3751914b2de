"""learned_range against the formulas of spec 5.2 in NumPy, where its blocks and rows end, and what it overwrites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.errors import CalibrationError
from hotwheels.amct_pytorch.quantizers import LuqActivationFakeQuantize, UlqFakeQuantize
from hotwheels.amct_pytorch.quantizers.learning.learned_range import learned_range


def written_out(x: np.ndarray, g: np.ndarray, low: float, high: float, grid: QuantParams) -> tuple:
    """Value, dx, d clip_min and d clip_max of spec 5.2, element by element; quotients in float32, sums in float64."""
    scale, offset, spec = np.float32(grid.scale), int(grid.offset), grid.spec
    top, bottom = (spec.qmax - offset) * scale, (spec.qmin - offset) * scale
    with np.errstate(over="ignore"):
        value = np.clip(np.rint(x / scale), spec.qmin - offset, spec.qmax - offset) * scale
    above, below = x > top, x < bottom
    steps = np.where(above, np.float32(high), np.where(below, np.float32(low), x)) / scale
    error = (np.rint(steps) - steps).astype(np.float64) / (2**grid.num_bits - 1)
    return value, np.where(above | below, 0, g), np.sum((below - error) * g), np.sum((above + error) * g)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]
    spread: float  # standard deviation of x; the range is [-1, 2]
    num_bits: int = 8
    outliers: tuple[float, ...] = ()
    channels_last: bool = False


CASES = [
    Case("nothing is clipped", (3000,), 0.1),
    Case("few are clipped", (3, 4, 20, 20), 0.1, outliers=(3.0, -2.0, 2.5)),
    Case("only in the rest of a block", (1300,), 0.1, outliers=(9.0,)),
    Case("most rows are clipped", (3000,), 1.0),
    Case("nearly all are clipped", (3000,), 50.0),
    Case("infinite", (3000,), 0.1, outliers=(np.inf, -np.inf)),
    Case("so large that the quotient overflows", (3000,), 0.1, outliers=(3e38, -3e38)),
    Case("4 bits", (2, 5, 16, 16), 1.0, num_bits=4),
    Case("16 bits", (2, 5, 16, 16), 1.0, num_bits=16),
    Case("channels last", (2, 5, 16, 16), 0.7, channels_last=True),
    Case("less than a row", (7,), 1.5),
    Case("no element", (0, 3), 1.0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_are_those_written_out(case):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(case.shape, generator=generator) * case.spread
    if case.outliers:
        x.view(-1)[-len(case.outliers) :] = torch.tensor(case.outliers)
    if case.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    g = torch.randn(case.shape, generator=generator)
    quantizer = UlqFakeQuantize(num_bits=case.num_bits, clip_max=2.0, clip_min=-1.0)
    ends = [quantizer.clip_min, quantizer.clip_max]
    grid, leaf = quantizer.params(), x.clone(memory_format=torch.preserve_format).requires_grad_()
    found = learned_range(leaf, *ends, grid)
    grads = torch.autograd.grad(found, (leaf, *ends), g)
    value, *expected = written_out(x.numpy(), g.numpy(), -1.0, 2.0, grid)
    np.testing.assert_array_equal(found.detach().numpy(), value)
    np.testing.assert_array_equal(grads[0].numpy(), expected[0])
    for ours, theirs in zip(grads[1:], expected[1:], strict=True):
        np.testing.assert_allclose(float(ours), theirs, rtol=1e-5, atol=1e-5)


def halved(value: Tensor) -> Tensor:
    return value * 0.5


Use = Callable[[Tensor], Tensor]
USES: dict[str, Use] = {
    "convolution": lambda value: F.conv2d(value, torch.full((2, 3, 1, 1), 0.5)),
    "addition to itself": lambda value: halved(value + value),
    "two readers": lambda value: F.relu(value) + halved(value),
    "view": lambda value: halved(value.reshape(2, -1)),
    "sum": lambda value: value,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_overwriting_gradients_changes_none_that_others_hold(use):
    """All the same with hooks and ``retain_grad``, which keep gradients, as without, where they may be overwritten."""
    x = torch.linspace(-2, 3, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    quantizers = [UlqFakeQuantize(clip_max=2.0, clip_min=-1.0), UlqFakeQuantize(clip_max=1.0, clip_min=-0.5)]

    def run(watch: Callable[[Tensor], None]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
        values = [quantizer.fake_quantize(halved(leaf)) for quantizer, leaf in zip(quantizers, leaves, strict=True)]
        total = values[0] + values[1]  # autograd hands one tensor to both
        for value in (*values, total):
            watch(value)
        use(total).sum().backward()
        return [leaf.grad for leaf in leaves]

    plain = run(lambda value: None)
    kept: list[Tensor] = []
    copies: list[Tensor] = []

    def keep(value: Tensor) -> None:
        value.retain_grad()
        value.register_hook(lambda grad: (kept.append(grad), copies.append(grad.clone()))[0])

    watched = run(keep)
    assert kept and all(torch.equal(*pair) for pair in zip(plain, watched, strict=True))
    assert all(torch.equal(*pair) for pair in zip(kept, copies, strict=True))


def test_the_gradient_a_caller_hands_over_is_left_alone():
    quantizer = UlqFakeQuantize(clip_max=1.0, clip_min=-1.0)
    gradient = torch.ones(64)
    value = quantizer.fake_quantize(torch.linspace(-2, 2, 64, requires_grad=True) * 1.0)
    value.backward(gradient)
    assert torch.equal(gradient, torch.ones(64))


def test_a_gradient_nobody_else_holds_is_overwritten():
    """Otherwise the counts have changed, and every step pays for a copy of each gradient."""
    seen: list[int] = []

    class Passed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(grad.data_ptr())
            return grad

    x = torch.linspace(-2, 2, 64, requires_grad=True)
    value = UlqFakeQuantize(clip_max=1.0, clip_min=-1.0).fake_quantize(Passed.apply(x))
    Passed.apply(value).mul(2.0).sum().backward()
    assert len(seen) == 2 and seen[0] == seen[1]


@pytest.mark.parametrize("layout", ["dense", "strided"])
@pytest.mark.parametrize("kind", [UlqFakeQuantize, LuqActivationFakeQuantize])
def test_nan_in_training_is_refused_with_the_layers_name(kind, layout):
    quantizer = kind(object_layer="block.conv")
    quantizer.observe(torch.linspace(-1, 1, 100))
    x = torch.zeros(4, 6)
    x[2, 3] = torch.nan
    x = x if layout == "dense" else x.t()
    with pytest.raises(CalibrationError, match=r"'block\.conv': the input of its quantizer \w+ holds NaN"):
        quantizer.train().fake_quantize(x.requires_grad_())
    infinite = torch.full((3,), torch.inf, requires_grad=True)
    assert torch.isfinite(quantizer.fake_quantize(infinite)).all()


def test_a_range_changed_behind_autograds_back_gives_another_grid():
    quantizer = UlqFakeQuantize(clip_max=1.0, clip_min=-1.0)
    before = quantizer.params().scale.clone()
    quantizer.clip_max.data.fill_(3.0)
    assert quantizer.params().scale == pytest.approx(2 * before.item(), rel=1e-6)


def test_a_grid_known_from_inference_mode_can_be_trained_with():
    quantizer = UlqFakeQuantize(clip_max=1.0, clip_min=-1.0)
    with torch.inference_mode():
        quantizer.params()
    quantizer.train().fake_quantize(torch.linspace(-2, 2, 9, requires_grad=True)).sum().backward()
    assert quantizer.clip_max.grad is not None
