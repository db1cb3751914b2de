"""UlqFakeQuantize against a float64 reference of spec 5.2."""

import dataclasses

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.errors import CalibrationError, ConfigError
from hotwheels.amct_pytorch.quantizers import IFMRObserver, UlqFakeQuantize


def rhe(x):
    return np.round(x)


def canonical(scale):
    one = np.float32(1)
    return np.float32(one / np.float32(one / np.float32(scale)))


def reference(x, g, low, high, bits, symmetric=False):
    """Output, dx, d clip_max, d clip_min of one forward and backward, element by element."""
    qmin, qmax, levels = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2**bits - 1
    scale = high / qmax if symmetric else (high - low) / levels
    scale = float(canonical(scale))
    offset = 0 if symmetric else int(np.clip(qmin - rhe(low / scale), qmin, qmax))
    top, bottom = (qmax - offset) * scale, (qmin - offset) * scale
    out, dx, dmax, dmin = np.zeros_like(x), np.zeros_like(x), 0.0, 0.0
    for i, (value, upstream) in enumerate(zip(x, g, strict=True)):
        above, below = value > top, value < bottom
        out[i] = (np.clip(rhe(value / scale) + offset, qmin, qmax) - offset) * scale
        dx[i] = 0 if above or below else upstream
        v = (high if above else low if below else value) / scale
        e = (rhe(v) - v) / levels
        dmax += (e + above) * upstream
        dmin += (below - e) * upstream
    return out, dx, dmax, dmin


def quantizer(low, high, bits=8, **args):
    made = UlqFakeQuantize(num_bits=bits, clip_max=high, clip_min=low, **args)
    assert made.is_calibrated
    return made


@pytest.mark.parametrize("bits", [4, 8, 9, 10, 11, 12, 13, 14, 15, 16])
def test_values_and_gradients_equal_the_reference(bits):
    rng = np.random.default_rng(bits)
    x, g = rng.normal(0, 1.5, 400).astype(np.float32), rng.normal(size=400).astype(np.float32)
    low, high = -1.75, 2.25
    made = quantizer(low, high, bits)
    tensor = torch.from_numpy(x).requires_grad_()
    made.fake_quantize(tensor).backward(torch.from_numpy(g))
    out, dx, dmax, dmin = reference(x.astype(np.float64), g, low, high, bits)
    np.testing.assert_allclose(made.fake_quantize(tensor).detach(), out, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(tensor.grad, dx.astype(np.float32))
    # float32 steps x / scale of up to 2^15 carry an error of 2^-9 each.
    tolerance = 1e-4 + 400 * 2.0 ** (bits - 24) / (2**bits - 1) * 4
    assert made.clip_max.grad.item() == pytest.approx(dmax, abs=tolerance, rel=1e-5)
    assert made.clip_min.grad.item() == pytest.approx(dmin, abs=tolerance, rel=1e-5)


def test_symmetric_clip_max_takes_the_gradient_of_both_ends():
    x = np.array([-3.0, -0.3, 0.26, 0.5, 3.0], dtype=np.float32)
    g = np.array([1.0, 2.0, -1.0, 0.5, 4.0], dtype=np.float32)
    made = UlqFakeQuantize(clip_max=1.0, with_offset=False)
    tensor = torch.from_numpy(x).requires_grad_()
    made.fake_quantize(tensor).backward(torch.from_numpy(g))
    _, dx, dmax, dmin = reference(x.astype(np.float64), g, -1.0, 1.0, 8, symmetric=True)
    np.testing.assert_array_equal(tensor.grad, dx)
    assert made.clip_max.grad.item() == pytest.approx(dmax - dmin, rel=1e-5)
    assert made.clip_min.grad is None and not made.clip_min.requires_grad
    assert made.params().offset == 0
    assert made.params().scale.item() == canonical(1.0 / 127)


def test_strided_input_and_expanded_gradient():
    made = quantizer(-1.0, 1.0)
    x = torch.randn(6, 5, 4)
    strided = x.permute(2, 0, 1)[:, ::2].requires_grad_()
    made.fake_quantize(strided).sum().backward()
    plain = strided.detach().contiguous().requires_grad_()
    expected = made.clip_max.grad.clone()
    made.clip_max.grad = None
    made.fake_quantize(plain).sum().backward()
    assert torch.equal(strided.grad, plain.grad)
    torch.testing.assert_close(made.clip_max.grad, expected)


def test_blocks_and_layouts_do_not_change_the_gradients():
    torch.manual_seed(0)
    x, g = torch.randn(2, 3, 300, 400), torch.randn(2, 3, 300, 400)  # several blocks
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        made = quantizer(-2.0, 2.0)
        leaf = x.clone().requires_grad_()
        made.fake_quantize(leaf.contiguous(memory_format=layout)).backward(g)
        found.append((leaf.grad, made.clip_max.grad, made.clip_min.grad))
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)


@dataclasses.dataclass(frozen=True)
class Guard:
    name: str
    new_max: float
    new_min: float
    expected_max: float
    expected_min: float


GUARDS = [
    Guard("collapsed", 0.5, 0.5, 2.0, -1.0),
    Guard("one eps apart", 2.0**-23, 0.0, 2.0, -1.0),
    Guard("negative max", -0.25, -3.0, 2.0, -3.0),
    Guard("positive min", 3.0, 0.25, 3.0, -1.0),
    Guard("crossed", -1.0, 1.0, 2.0, -1.0),
    Guard("fine", 1.0, -0.5, 1.0, -0.5),
]


@pytest.mark.parametrize("case", GUARDS, ids=lambda case: case.name)
def test_guards_restore_the_previous_range(case):
    made = quantizer(-1.0, 2.0)
    made.fake_quantize(torch.randn(8, requires_grad=True))
    with torch.no_grad():
        made.clip_max.fill_(case.new_max)
        made.clip_min.fill_(case.new_min)
    with torch.no_grad():
        before = made.fake_quantize(torch.linspace(-4, 4, 50))
    made.fake_quantize(torch.randn(8, requires_grad=True))
    assert (made.clip_max.item(), made.clip_min.item()) == (case.expected_max, case.expected_min)
    assert (made.previous_max.item(), made.previous_min.item()) == (case.expected_max, case.expected_min)
    with torch.no_grad():
        assert torch.equal(before, made.fake_quantize(torch.linspace(-4, 4, 50)))


@pytest.mark.parametrize("name", ["clip_max", "clip_min"])
def test_a_range_that_became_nan_names_layer_and_quantizer_and_is_not_remembered(name):
    made = UlqFakeQuantize(clip_max=2.0, clip_min=-1.0, object_layer="conv1")
    with torch.no_grad():
        getattr(made, name).fill_(float("nan"))
    for x in (torch.zeros(2), torch.zeros(2, requires_grad=True)):
        with pytest.raises(CalibrationError, match=r"Layer 'conv1'.*UlqFakeQuantize is NaN"):
            made.fake_quantize(x)
    assert (made.previous_max.item(), made.previous_min.item()) == (2.0, -1.0)


def test_fixed_min_stays_zero_and_has_no_gradient():
    made = UlqFakeQuantize(fixed_min=True)
    made.observe(torch.randn(1000))
    made.fake_quantize(torch.randn(50, requires_grad=True)).sum().backward()
    assert made.clip_min.item() == 0.0 and made.clip_min.grad is None
    assert made.params().offset == -128
    assert made.clip_max.grad is not None


def test_grid_follows_the_observer_after_calibration():
    torch.manual_seed(1)
    made = UlqFakeQuantize(observer=IFMRObserver, batch_num=2, object_layer="conv1")
    made.observe(torch.randn(500))
    assert not made.is_calibrated
    with pytest.raises(CalibrationError, match=r"Layer 'conv1'.*UlqFakeQuantize is not calibrated"):
        made.fake_quantize(torch.zeros(3))
    made.observe(torch.randn(500))
    params = made.params()
    assert params.offset == made.observer.zero_point
    assert params.scale.item() == pytest.approx(made.observer.scale.item(), rel=1e-6)
    made.observe(torch.randn(500) * 100)  # ignored
    assert torch.equal(made.params().scale, params.scale)


def test_constant_zero_data_gives_scale_one(capfd):
    made = UlqFakeQuantize(object_layer="conv1")
    made.observe(torch.zeros(10))
    assert (made.params().scale.item(), made.params().offset.item()) == (1.0, -128)
    assert torch.equal(made.fake_quantize(torch.zeros(10)), torch.zeros(10))
    assert "Layer 'conv1'" in capfd.readouterr().err


@pytest.mark.parametrize("value", [3.0, -3.0])
def test_one_element_is_kept_within_half_a_step(value):
    made = UlqFakeQuantize()
    made.observe(torch.tensor([value]))
    found = made.fake_quantize(torch.tensor([value])).item()
    assert abs(found - value) <= made.params().scale.item() / 2 + 1e-6


def test_training_moves_the_range_and_later_calibration_does_not():
    torch.manual_seed(2)
    made = UlqFakeQuantize()
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    made.observe(torch.randn(100))
    first = made.params().scale
    made.fake_quantize(torch.randn(100, requires_grad=True)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(first, made.params().scale)
    trained = made.params().scale
    made.observe(torch.randn(100) * 7)
    assert torch.equal(made.params().scale, trained)


@dataclasses.dataclass(frozen=True)
class Wrong:
    args: dict
    text: str


WRONG = [
    Wrong({"num_bits": 7}, "num_bits"),
    Wrong({"num_bits": 17}, "num_bits"),
    Wrong({"clip_max": -1.0}, "clip_max"),
    Wrong({"clip_min": 1.0}, "clip_min"),
    Wrong({"batch_num": 0}, "batch_num"),
    Wrong({"max_percentile": 0.5}, "max_percentile"),
    Wrong({"min_percentile": 1.1}, "min_percentile"),
    Wrong({"search_step": 0.0}, "search_step"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.text + str(list(case.args.values())))
def test_argument_outside_its_range_is_named(case):
    with pytest.raises(ConfigError, match=case.text):
        UlqFakeQuantize(**case.args)


def test_make_symmetric_before_and_after_calibration_give_offset_zero():
    data = torch.rand(1000) * 3
    before, after = UlqFakeQuantize(), UlqFakeQuantize()
    before.make_symmetric()
    before.observe(data)
    after.observe(data)
    after.make_symmetric()
    for made in (before, after):
        assert made.is_symmetric and made.params().offset == 0
        assert made.params().scale.item() == pytest.approx(3 / 127, rel=0.05)
        assert not made.clip_min.requires_grad
