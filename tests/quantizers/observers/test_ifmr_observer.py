"""IFMRObserver as a torch observer (spec 5.1); the search itself is tested in tests/core."""

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.errors import CalibrationError, ConfigError
from hotwheels.amct_pytorch.quantizers import IFMRObserver


def reference(x, bits, symmetric):
    """(scale, offset) of the exact search with the default arguments."""
    x = np.asarray(x, dtype=np.float64)
    qmin, qmax, levels = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2**bits - 1
    ordered = np.sort(x)
    k = x.size - int(0.999999 * x.size)
    low, high = min(0.0, ordered[k - 1]), max(0.0, ordered[-k])
    best = (np.inf, None)
    for i in range(61):
        r = 0.7 + i * 0.01
        top = r * (max(-low, high) if symmetric else high)
        bottom = -top if symmetric else low
        scale = top / qmax if symmetric else (top - bottom) / levels
        error = np.sum((np.round(np.clip(x, bottom, top) / scale) * scale - x) ** 2)
        if error < best[0]:
            best = (error, scale, 0 if symmetric else qmin - np.round(low / scale))
    return best[1:]


@pytest.mark.parametrize("bits", [4, 8, 12])
@pytest.mark.parametrize("with_offset", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_scale_is_that_of_the_exact_search(bits, with_offset, exact):
    x = np.random.default_rng(bits).normal(0.3, 1, 3000).astype(np.float32)
    observer = IFMRObserver(num_bits=bits, with_offset=with_offset, exact=exact, batch_num=3)
    for piece in np.array_split(x, [500, 700]):
        assert observer.scale == 1.0
        observer(torch.from_numpy(piece))
    scale, zero_point = observer.calculate_qparams()
    expected, offset = reference(x, bits, not with_offset)
    assert scale.item() == pytest.approx(expected, rel=1e-6 if exact else 0.03)
    if exact:
        assert zero_point.item() == offset


def test_statistics_are_dropped_and_later_batches_ignored():
    observer = IFMRObserver()
    observer(torch.randn(100))
    assert observer._statistics is None
    scale = observer.scale.clone()
    observer(torch.randn(100) * 50)
    assert torch.equal(observer.scale, scale)
    assert set(observer.state_dict()) == {"min_val", "max_val", "scale", "zero_point"}


def test_too_few_batches_is_an_error():
    observer = IFMRObserver(object_layer="conv1", batch_num=2)
    observer(torch.randn(10))
    with pytest.raises(CalibrationError, match="Layer 'conv1': IFMRObserver has not seen enough batches"):
        observer.calculate_qparams()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_name_the_layer(bad):
    with pytest.raises(CalibrationError, match=r"Layer 'conv1'.*NaN or inf"):
        IFMRObserver(object_layer="conv1")(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("x", [torch.arange(5), torch.tensor([True]), None, torch.Size([1]), (1, 2), torch.empty(0)])
def test_what_is_no_floating_tensor_is_ignored(x):
    observer = IFMRObserver()
    assert observer(x) is x
    assert not observer.is_complete


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_observed_in_float32(dtype):
    x = torch.linspace(-2, 3, 64).to(dtype)
    one, other = IFMRObserver(), IFMRObserver()
    one(x)
    other(x.float())
    assert torch.equal(one.scale, other.scale)


def test_search_range_is_both_ends_and_contradicting_symmetry_is_symmetric(capfd):
    observer = IFMRObserver(search_range=[0.8, 1.2], search_step=0.1, qscheme="affine", with_offset=False)
    assert (observer.options.search_start, observer.options.search_end) == (0.8, 1.2)
    assert observer.is_symmetric
    assert "contradicts" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"search_start": 1.2, "search_end": 0.9}, "search_start"),
        ({"search_step": 0.7}, "search_step"),
        ({"search_range": [0.0, 1.0]}, "search_start"),
        ({"qscheme": "dynamic"}, "qscheme"),
        ({"num_bits": 5}, "num_bits"),
    ],
)
def test_argument_outside_its_range_is_named(args, text):
    with pytest.raises(ConfigError, match=text):
        IFMRObserver(**args)
