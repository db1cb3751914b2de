"""Gradients through quantized layers, against smooth functions with constant rounding errors (spec 5.2, 6.4, 6.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.quantizers import ArqWeightFakeQuantize, LnqFakeQuantize, UlqFakeQuantize
from hotwheels.amct_pytorch.quantizers.base import WeightQuantizer
from hotwheels.amct_pytorch.quantizers.learning.learned_range import learned_range
from tests.support.fx_path import quantize


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def range_surrogate(x: Tensor, ends: tuple[float, float], grid: QuantParams) -> Callable[..., Tensor]:
    """``clip(x, low, high) + error * (high - low) / levels`` with masks and errors held as they are at ``x``."""
    scale, offset, spec = grid.scale.double(), grid.offset.double(), grid.spec
    above, below = x > (spec.qmax - offset) * scale, x < (spec.qmin - offset) * scale

    def clipped(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        return torch.where(above, high, torch.where(below, low, x))

    steps = clipped(x, *ends) / scale
    errors = torch.round(steps) - steps
    return lambda x, low, high: clipped(x, low, high) + errors * (high - low) / spec.levels


def test_a_learned_range_has_the_gradients_of_its_surrogate():
    x = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    low, high = (torch.tensor(end, dtype=torch.float64, requires_grad=True) for end in (-1.3, 1.9))
    grid = UlqFakeQuantize(num_bits=4, clip_max=1.9, clip_min=-1.3).params()
    surrogate = range_surrogate(x.detach(), (-1.3, 1.9), grid)
    assert torch.autograd.gradcheck(surrogate, (x, low, high))

    upstream = torch.randn_like(x)
    expected = torch.autograd.grad(surrogate(x, low, high), (x, low, high), upstream)
    found = torch.autograd.grad(learned_range(x, low, high, grid), (x, low, high), upstream)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_lnq_has_the_gradients_of_its_surrogate():
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    quantizer = LnqFakeQuantize(clip_max=1.2)
    quantizer.observe(weight)
    bound = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    sigma = weight.detach().float().std(correction=0).double()

    def surrogate(weight: Tensor, bound: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(weight, bound * sigma), -bound * sigma)

    assert torch.autograd.gradcheck(surrogate, (weight, bound))
    upstream = torch.randn_like(weight)
    expected = torch.autograd.grad(surrogate(weight, bound), (weight, bound), upstream)
    found = torch.autograd.grad(quantizer.fake_quantize(weight), (weight, quantizer.clip_max), upstream)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channel_wise", [True, False])
@pytest.mark.parametrize("shape", [(7, 5, 3, 3), (70_000, 1, 3, 3)], ids=["one block", "several blocks"])
def test_the_weight_before_a_batch_norm_is_made_in_one_go_to_the_bit(channel_wise, shape):
    quantizer = ArqWeightFakeQuantize(channel_wise=channel_wise)
    weight, factor = torch.randn(shape), torch.randn(shape[0])
    factor[2] = 0.0
    inverse = torch.where(factor == 0, factor, 1 / factor)
    params, plain = (
        quantizer.folded_params(weight, factor, None),
        WeightQuantizer.folded_params(quantizer, weight, factor, None),
    )
    assert torch.equal(params.scale, plain.scale)
    found, expected = [], []
    for made, function in (
        (found, quantizer.fake_quantize_unfolded),
        (expected, lambda *args: WeightQuantizer.fake_quantize_unfolded(quantizer, *args)),
    ):
        leaves = [weight.clone().requires_grad_(), factor.clone().requires_grad_()]
        back = torch.where(leaves[1] == 0, torch.zeros(()), 1 / torch.where(leaves[1] == 0, 1.0, leaves[1]))
        assert torch.equal(back, inverse)
        result = function(*leaves, back, params)
        result.backward(torch.linspace(-1, 1, weight.numel()).view(shape))
        made += [result, leaves[0].grad, leaves[1].grad]
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=0)
    # The plain way subtracts two sums, each as large as sum |g w / f|.
    size = (weight.abs().flatten(1).sum(1) * inverse.abs()).max().item()
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=1e-6 * size)


class ConvNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.5, -0.7, 0.0, 0.2]))
            self.norm.running_var.uniform_(0.5, 2.0)
            self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Siblings(nn.Module):
    """Two convolutions read one tensor; a third is called twice; an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.twice = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.twice(self.left(x) + self.right(x)))


def trainable(model: nn.Module, folder: Path, x: Tensor, layers: dict | None = None) -> QuantGraphModule:
    quantized = quantize(model, folder, [(x,)], layers)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized.train()


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    return exact + (rounded - exact).detach()


def test_conv_and_batch_norm_train_as_the_written_formula(tmp_path):
    x = torch.randn(2, 3, 6, 6)
    model = trainable(ConvNorm(), tmp_path, x)
    layer, norm = model.quantized_layers["conv"], model.get_submodule("norm")
    module, var = model.get_submodule("conv"), norm.running_var.clone()
    data = x.clone().requires_grad_()
    grid = layer.activation[0].params()
    ends = [layer.activation[0].clip_min, layer.activation[0].clip_max]
    expected_x = learned_range(data, *ends, grid)
    factor = norm.weight / torch.sqrt(var + norm.eps)
    folded = module.weight * factor.view(-1, 1, 1, 1)
    rounded = straight_through(folded, layer.weight.fake_quantize(folded.detach()))
    inverse = torch.where(norm.weight == 0, 0.0, 1 / torch.where(norm.weight == 0, 1.0, factor))
    out = F.conv2d(expected_x, rounded * inverse.view(-1, 1, 1, 1), module.bias)
    expected = F.batch_norm(out, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)

    upstream = torch.randn_like(expected)
    leaves = [data, module.weight, norm.weight, norm.bias, *ends]
    expected_grads = torch.autograd.grad(expected, leaves, upstream)
    found = model(data)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found_grads = torch.autograd.grad(found, leaves, upstream)
    for ours, theirs in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algorithm", ["ArqWeightFakeQuantize", "LnqFakeQuantize"])
def test_siblings_and_reused_layers_add_up_their_gradients(tmp_path, algorithm):
    x = torch.randn(2, 3, 5, 5)
    weight = {"weight_quant_params": {"quantizer": algorithm, "quantizer_args": {}}}
    model = trainable(Siblings(), tmp_path, x, {name: weight for name in ("left", "right", "twice", "twice_1")})
    layers = model.quantized_layers
    assert layers["left"].activation[0] is layers["right"].activation[0]
    assert layers["twice"].weight is layers["twice_1"].weight
    data = x.clone().requires_grad_()

    def conv(name: str, value: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer with nothing shared: its input quantized once more, its weight too."""
        layer = layers[name]
        weight, bias = layer.weighted.op.folded()
        params = layer.weighted.params(weight.detach(), bias)
        step = layer.activation[0].params().scale * params.scale
        rounded = straight_through(bias, torch.round(bias / step) * step)
        return F.conv2d(read(value), layer.weight.fake_quantize(weight, params), rounded, padding=1)

    def read(name: str, index: int = 0) -> Callable[[Tensor], Tensor]:
        quantizer = layers[name].activation[index]
        return lambda value: learned_range(value, quantizer.clip_min, quantizer.clip_max, quantizer.params())

    left, right = conv("left", data, read("left")), conv("right", data, read("right"))
    total = read("add")(left) + read("add", 1)(right)
    expected = conv("twice_1", conv("twice", total, read("twice")), read("twice_1"))
    leaves = [data, *(p for p in model.parameters() if p.requires_grad)]
    upstream = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, leaves, upstream)
    found = model(data)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(found, leaves, upstream), expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_quantized_inputs_are_made_again_for_the_backward_not_kept(tmp_path):
    model = trainable(Siblings(), tmp_path, torch.randn(2, 3, 5, 5))
    quantizer, made = model.quantized_layers["left"].activation[0], []
    fake_quantize = quantizer.fake_quantize

    def remembering(x: Tensor) -> Tensor:
        result = fake_quantize(x)
        made.append(result.untyped_storage())
        return result

    quantizer.fake_quantize = remembering
    output = model(torch.randn(64, 3, 5, 5))
    unused = torch.zeros(1).untyped_storage()
    holders = [torch._C._storage_Use_Count(storage._cdata) for storage in (*made, unused)]
    assert len(made) == 1 and holders[0] == holders[1], "an object outside this test holds the quantized input"
    output.sum().backward()
