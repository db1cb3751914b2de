"""Calls between layers that are no layers: the file computes the same integers as these calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.real_quant import real_quant_mode
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import quantize, run_real


class Net(nn.Module):
    """A convolution, a call, and an addition of 16 bits, which shows the last bits of what it gets."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self.conv(x)) + 1.0


@torch.fx.wrap
def stochastic_depth(x: Tensor, training: bool) -> Tensor:
    """As in torchvision: nothing in evaluation."""
    return x * torch.rand(1) if training else x


@torch.fx.wrap
def attention(x: Tensor) -> Tensor:
    """As in torchvision's Swin: products, a softmax and changes in place that torch.fx does not see."""
    tokens = x.flatten(2).transpose(1, 2)
    key = F.normalize(F.linear(tokens, torch.linspace(-1, 1, 16 * 16).view(16, 16)), dim=-1)
    weights = torch.softmax(tokens.matmul(key.transpose(1, 2)) * 0.3, dim=-1)
    result = weights @ tokens
    result[:, 0] *= 3.0
    return result.transpose(1, 2).reshape(x.shape)


@torch.fx.wrap
def single_only(x: Tensor) -> Tensor:
    """Stands for an extension compiled for float32."""
    if x.element_size() != torch.float32.itemsize:  # x.dtype is that of the float model, also in real_quant
        raise TypeError("expected scalar type Float")
    return x.abs()


def negative(x: Tensor) -> Tensor:
    """A copy is a float tensor as before; with a ``dtype`` it need not be."""
    return x.masked_fill(x.clamp(min=0).to(dtype=torch.bool), 0.0)


def fold(x: Tensor) -> Tensor:
    """Overlapping patches, added up; the size of the image is known only when the model runs."""
    patches = x.unsqueeze(2).expand(-1, -1, 9, -1, -1).flatten(1, 2).flatten(2)
    return F.fold(patches, (x.shape[2], x.shape[3]), (3, 3), padding=(2, 1), dilation=(2, 1))


def convolved(x: Tensor) -> Tensor:
    """Its weight is no parameter of a layer, so it stays in float: from float32, to float32."""
    return F.conv2d(x.relu(), torch.linspace(-1, 1, 16 * 16).view(16, 16, 1, 1))


def projected(x: Tensor) -> Tensor:
    return F.linear(x.relu(), torch.linspace(-1, 1, 32 * 32).view(32, 32), torch.linspace(0, 1, 32))


class OnTokens(nn.Module):
    """A module on the pixels of an image, as [batch, channels, pixels] or, if it is a Linear, the other way round."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu().flatten(2)
        return self.module(x.transpose(1, 2) if isinstance(self.module, nn.Linear) else x)


class Recurrent(nn.Module):
    """A recurrent layer along the rows of images."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rows = layer(32, 16, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x.mean(1))[0]


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "a user's function that returns its argument": lambda x: stochastic_depth(x, False),
    "a user's function of products": lambda x: attention(x),
    "a mask cast to bool": negative,
    "F.fold": fold,
    "F.conv2d": convolved,
    "F.linear": projected,
    "Conv1d": OnTokens(nn.Conv1d(16, 8, 3)),
    "ConvTranspose1d": OnTokens(nn.ConvTranspose1d(16, 8, 3)),
    "AvgPool1d": OnTokens(nn.AvgPool1d(3)),
    "Linear left in float": OnTokens(nn.Linear(16, 8)),
    **{layer.__name__: Recurrent(layer).eval() for layer in (nn.RNN, nn.LSTM, nn.GRU)},
}
_OFF = {"quant_enable": False}
_WIDE = {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": 16}}]}


@pytest.mark.parametrize("name", CALLS)
def test_call_between_layers_is_exact(name: str, tmp_path: Path) -> None:
    x = torch.randn(4, 3, 32, 32)
    layers = {"add": _WIDE, **({"_call_module": _OFF} if name == "Linear left in float" else {})}
    assert_exact(quantize(Net(CALLS[name]).eval(), tmp_path, [(x,)], layers), tmp_path, [x])


class Products(nn.Module):
    """A product that ``call`` returns as it is, and an addition of 16 bits, which shows how the product is rounded."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._call = call

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self._call(torch.matmul(a, b)) + 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x[:, :, 0:],
        lambda x: x[...],
        lambda x: x.unflatten(1, (x.shape[1],)),
        lambda x: x.broadcast_to(x.shape),
        lambda x: x.repeat(1, 1, 1, 1),
        lambda x: x.movedim(1, 1),
        lambda x: x.roll(0, -1),
        lambda x: torch.flip(x, ()),
        lambda x: torch.rot90(x, 0, (2, 3)),
        lambda x: x.chunk(1, 1)[0],
        lambda x: torch.split(x, x.shape[1], 1)[0],
        lambda x: torch.atleast_3d(x),
        lambda x: +x,
        lambda x: x.real,
    ],
    ids=[
        *("slice", "ellipsis", "unflatten", "broadcast_to", "repeat", "movedim"),
        *("roll", "flip", "rot90", "chunk", "split", "atleast_3d", "plus", "real"),
    ],
)
def test_call_that_changes_nothing_leaves_an_accumulator_exact(
    call: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    inputs = torch.randn(1, 2, 400, 9), torch.randn(1, 2, 9, 400)
    assert_exact(quantize(Products(call).eval(), tmp_path, [inputs], {"add": _WIDE}), tmp_path, inputs)


def test_function_for_float32_only_gets_it_and_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(real_quant_mode._log, "warning", lambda text, *values: warnings.append(text % values))
    real_quant_mode._tell_single.cache_clear()
    x = torch.randn(4, 3, 32, 32)
    quantized = quantize(Net(lambda x: single_only(x)).eval(), tmp_path, [(x,)])
    amct.enable_quantization(quantized, fake_quant=True)
    with torch.no_grad():
        expected = quantized(x)
    assert (run_real(quantized, x) - expected).abs().max() < expected.abs().max() / 255
    assert len(warnings) == 1
    assert "'single_only' does not take float64 (expected scalar type Float)" in warnings[0]


def test_error_of_a_function_is_no_matter_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(real_quant_mode._log, "warning", lambda text, *values: warnings.append(text % values))
    with pytest.raises(RuntimeError, match="shape"):
        real_quant_mode.run_opaque(lambda x: x.view(7), (torch.ones(4),), {})
    assert not warnings


W, B = torch.randn(24, 8, generator=torch.Generator().manual_seed(5)), torch.linspace(-1, 1, 24)
V = torch.arange(8.0)


def _attention(x: Tensor) -> Tensor:
    q, k, v = F.linear(x, W, B).reshape(2, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = torch.softmax((q * 0.3) @ k.transpose(-2, -1), -1)
    return F.linear(scores.matmul(v).transpose(1, 2).reshape(2, 9, 8), W[:8])


def _changed_in_place(x: Tensor) -> Tensor:
    product = torch.matmul(x, W.t())
    product.mul_(1 / 3)  # no float32 value any more
    return F.linear(product, W.t())


PRODUCTS = {
    "attention": _attention,
    "changed in place": _changed_in_place,
    "a product of a product": lambda x: F.linear(F.linear(x, W), W.t()),
    "rows with bias": lambda x: F.linear(x.reshape(18, 8), W, B),
    "vectors": lambda x: torch.matmul(x, V),
    "batches": lambda x: torch.bmm(x / 3, x.transpose(1, 2)),
    "matrices": lambda x: x[0].mm(W.t()),
    "operator": lambda x: x @ W.t() + 1,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_float_products_in_few_passes_are_those_of_call_float_product(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    kept = x.clone()
    used: list[str] = []
    original = real_quant_mode.matrix_product_of_singles

    def noted(*args: Any) -> tuple[Tensor, bool]:
        used.append(name)
        return original(*args)

    with torch.no_grad():
        monkeypatch.setattr(real_quant_mode, "matrix_product_of_singles", noted)
        found = real_quant_mode.run_opaque(PRODUCTS[name], (x,), {})
        monkeypatch.setattr(real_quant_mode, "is_matrix_product", lambda *_: False)
        expected = real_quant_mode.run_opaque(PRODUCTS[name], (x,), {})
    assert used and torch.equal(x, kept)
    assert found.dtype is expected.dtype and torch.equal(found, expected)


class Unread(nn.Module):
    """Its second branch leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unread, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.norm(self.unread(x)).relu()
        return x.abs()


def test_branch_that_leads_nowhere_is_no_layer_and_in_no_file(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    report = amct.check_model(Unread())
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert reasons["unread"] == "nothing that the model returns depends on it"
    quantized = quantize(Unread().eval(), tmp_path, [(x,)])
    assert list(quantized.quantized_layers) == ["conv", "abs_1"]
    assert_exact(quantized, tmp_path, [x])
    assert run_real(quantized, x).shape == (2, 4, 6, 6)


def test_layout_which_a_kernel_chooses_stops_no_view(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 32, 32)
    quantized = quantize(Net(lambda x: x.view(2, -1).view_as(flat := x.flatten(1)) + flat).eval(), tmp_path, [(x,)])
    assert_exact(quantized, tmp_path, [x])
    image = quantize(Net(torch.relu).eval(), tmp_path, [(x,)])
    assert run_real(image, x).is_contiguous()
