"""Products in int8 kernels are equal to those in float64, for every form of a convolution and up to the bound."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hotwheels.amct_pytorch import torch_private
from hotwheels.amct_pytorch.core import int8_product
from hotwheels.amct_pytorch.core.exact_product import FLOAT32_EXACT, Range, row_sums, weighted_product
from hotwheels.amct_pytorch.core.int8_product import Int8Functions, int8_functions

LIMITS = (Range(-128, 127), Range(0, 255), Range(-37, 218), Range(-255, 0))
pytestmark = pytest.mark.skipif(not int8_product.is_exact(), reason="no exact int8 kernels on this processor")


@pytest.fixture(autouse=True)
def for_small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the kernels for small products too."""
    monkeypatch.setattr(int8_product, "_LEAST_PRODUCTS", 0)
    monkeypatch.setattr(int8_product, "_LEAST_POSITIONS", 0)
    torch.manual_seed(0)


def integers(limits: Range, *shape: int) -> Tensor:
    return torch.randint(limits.low, limits.high + 1, shape).float()


@dataclasses.dataclass(frozen=True)
class Case:
    """One convolution: sizes and settings."""

    name: str
    channels: int = 16
    outputs: int = 8
    kernel: tuple[int, int] = (3, 3)
    stride: object = 1
    padding: object = 0
    dilation: object = 1
    groups: int = 1
    size: tuple[int, int] = (11, 9)
    batch: int = 2


CASES = (
    Case("3x3", padding=1),
    Case("1x1", kernel=(1, 1)),
    Case("three channels", channels=3, outputs=5, kernel=(7, 7), stride=2, padding=3),
    Case("odd channels", channels=17, outputs=13, padding=(1, 0)),
    Case("asymmetric stride and kernel", kernel=(1, 5), stride=(2, 1), padding=[0, 2]),
    Case("dilation", padding=2, dilation=(2, 2)),
    Case("groups", channels=12, outputs=24, groups=4, padding=1),
    Case("groups of 24 channels", channels=192, outputs=192, groups=8, padding=1),
    Case("depthwise", channels=32, outputs=32, groups=32, padding=1),
    Case("depthwise, odd", channels=19, outputs=38, groups=19, stride=2),
    Case("many channels", channels=300, outputs=70, padding=1, size=(5, 5)),
    Case("one position", channels=64, size=(3, 3), batch=1),
    Case("padding only", size=(1, 1), padding=1, batch=1),
)


@pytest.mark.parametrize("seed", range(150))
def test_drawn_convolutions_are_exact(seed: int) -> None:
    drawn = random.Random(seed)
    groups = drawn.choice([1, 1, 2, 3, 8])
    channels, outputs = (groups * drawn.randint(1, 40) for _ in range(2))
    if drawn.random() < 0.3:
        groups = channels
        outputs = channels * drawn.choice([1, 1, 2])
    kernel, padding = drawn.choice([(1, 1), (3, 3), (5, 5), (1, 3), (2, 2)]), drawn.choice([0, 1, 2, 3])
    settings = (drawn.choice([1, 1, 2, 3]), padding, drawn.choice([1, 1, 2]), groups)
    limits = drawn.choice(LIMITS)
    x = integers(limits, drawn.choice([1, 2]), channels, drawn.randint(9, 30), drawn.randint(9, 30))
    if drawn.random() < 0.5:
        x = x.contiguous(memory_format=torch.channels_last)
    most = min(127, int(FLOAT32_EXACT // (256 * channels // groups * kernel[0] * kernel[1])))
    weight = integers(Range(-most, most), outputs, channels // groups, *kernel)
    found = Int8Functions(limits).conv2d(x, weight.to(torch.int8), None, *settings)
    assert torch.equal(found.double(), F.conv2d(x.double(), weight.double(), None, *settings))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_convolutions_are_exact(case: Case, limits: Range) -> None:
    x = integers(limits, case.batch, case.channels, *case.size).contiguous(memory_format=torch.channels_last)
    weight = integers(Range(-128, 127), case.outputs, case.channels // case.groups, *case.kernel)
    bias = integers(Range(-5000, 5000), case.outputs)
    settings = (case.stride, case.padding, case.dilation, case.groups)
    found = Int8Functions(limits).conv2d(x, weight.to(torch.int8), bias, *settings)
    assert found.dtype is torch.float32
    assert torch.equal(found.double(), F.conv2d(x.double(), weight.double(), bias.double(), *settings))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("shape", [(1, 5), (7, 300), (2, 3, 64), (1, 1, 1)], ids=str)
def test_linear_is_exact(shape: tuple[int, ...], limits: Range) -> None:
    x, weight = integers(limits, *shape), integers(Range(-128, 127), 9, shape[-1])
    expected = F.linear(x.double(), weight.double())
    for bias in (torch.zeros(9), integers(Range(-5000, 5000), 9)):
        found = Int8Functions(limits).linear(x, weight.to(torch.int8), bias)
        assert torch.equal(found.double(), expected + bias)
    assert torch.equal(Int8Functions(limits).linear(x, weight.to(torch.int8)).double(), expected)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_sums_next_to_the_bound_are_exact(limits: Range) -> None:
    """All products have one sign and the largest size."""
    channels = int((FLOAT32_EXACT - 1) // (255 * 127))
    weight = torch.full((3, channels, 1, 1), 127.0)
    weight[1] *= -1
    functions = int8_functions(limits, row_sums(weight.flatten(1)), 0.0)
    assert functions is not None
    for value in (limits.low, limits.high):
        x = torch.full((1, channels, 2, 2), float(value)).contiguous(memory_format=torch.channels_last)
        expected = F.conv2d(x.double(), weight.double())
        assert torch.equal(functions.conv2d(x, weight.to(torch.int8)).double(), expected)
        rows = x[:, :, 0, 0]
        assert torch.equal(functions.linear(rows, weight[:, :, 0, 0].to(torch.int8)).double(), expected[:, :, 0, 0])


def test_larger_sums_and_wider_data_are_refused() -> None:
    sums = row_sums(torch.full((1, 600), 127.0))
    assert int8_functions(Range(0, 255), sums, 0.0) is None
    assert int8_functions(Range(0, 255), row_sums(torch.ones(1, 4)), float(FLOAT32_EXACT)) is None
    assert int8_functions(Range(-256, 127), row_sums(torch.ones(1, 4)), 0.0) is None


@pytest.mark.parametrize("channels", [64, 700, 3000, 8192])  # one part, several parts, float64
@pytest.mark.parametrize("limits", [*LIMITS, Range(-32768, 32767)], ids=str)
def test_products_in_parts_are_exact(channels: int, limits: Range) -> None:
    x, weight = integers(limits, 2, channels, 3, 3), integers(Range(-128, 127), 4, channels, 1, 1)
    used = []

    def faster(limits: Range, sums: tuple[Tensor, Tensor], bias: float):
        functions = int8_functions(limits, sums, bias)
        used.append(functions is not None)
        return functions and functions.conv2d

    found, _ = weighted_product(F.conv2d, x, weight.to(torch.int8), None, limits, axis=-3, groups=1, faster=faster)
    assert torch.equal(found.double(), F.conv2d(x.double(), weight.double()))
    assert any(used) or channels == 8192


def test_rows_in_parts_are_exact() -> None:
    limits, x, weight = LIMITS[0], integers(LIMITS[0], 5, 3000), integers(Range(-128, 127), 4, 3000)

    def faster(limits: Range, sums: tuple[Tensor, Tensor], bias: float):
        functions = int8_functions(limits, sums, bias)
        return functions and functions.linear

    found, _ = weighted_product(F.linear, x, weight.to(torch.int8), None, limits, axis=-1, groups=1, faster=faster)
    assert torch.equal(found.double(), F.linear(x.double(), weight.double()))


def test_a_processor_that_saturates_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch_private.int8_matrix_product
    monkeypatch.setattr(int8_product, "int8_matrix_product", lambda *given: original(*given).clamp(max=32767))
    assert not int8_product.is_exact.__wrapped__()


def test_a_torch_without_the_kernels_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_product, "has_int8_products", lambda: False)
    assert not int8_product.is_exact.__wrapped__()


@pytest.mark.parametrize("seed", range(30))
def test_a_weight_packed_once_serves_other_images_and_grids(seed: int) -> None:
    drawn = random.Random(seed)
    is_depthwise = drawn.random() < 0.5
    channels = drawn.randint(1, 40)
    outputs, groups = (channels, channels) if is_depthwise else (drawn.randint(1, 40), 1)
    size, padding, stride = drawn.choice([1, 3, 5]), drawn.choice([0, 1, 2]), drawn.choice([1, 2, 3])
    dilation = drawn.choice([1, 1, 2])
    module = torch.nn.Conv2d(channels, outputs, size, stride, padding, dilation, groups)
    weight = torch.randint(-128, 128, module.weight.shape, dtype=torch.int8)
    bias = torch.randint(-1000, 1000, (outputs,)).float()
    kept: dict = {}
    for _ in range(6):
        limits = drawn.choice([Range(-128, 127), Range(0, 255), Range(-37, 218)])
        x = integers(limits, drawn.choice([1, 2]), channels, drawn.randint(9, 20), drawn.randint(9, 20))
        functions = int8_functions(limits, row_sums(weight.flatten(1)), 1000.0, weight, kept)
        assert functions is not None
        want = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding, dilation, groups)
        unsigned = (x - limits.low).to(torch.uint8)
        assert functions.takes_unsigned(x, weight, module)
        assert torch.equal(functions.conv2d_of_unsigned(unsigned, weight, bias, module).double(), want)
        assert torch.equal(functions.conv2d(x, weight, bias, stride, padding, dilation, groups).double(), want)
        other = -1 - weight  # another object is packed anew, whatever is kept
        assert torch.equal(functions.conv2d(x, other, None, stride, padding, dilation, groups).double(),
                           F.conv2d(x.double(), other.double(), None, stride, padding, dilation, groups))  # fmt: skip
    assert 0 < len(kept) <= int8_product._MOST_KEPT


def test_a_convolution_with_margins_or_other_padding_takes_no_bytes() -> None:
    x, weight = torch.zeros(1, 4, 9, 9), torch.ones(4, 4, 3, 3, dtype=torch.int8)
    functions = Int8Functions(Range(0, 255), weight)
    for module in (
        torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(4, 4, 3, padding="same"),
        torch.nn.Conv2d(4, 4, 3, groups=2),
    ):
        assert not functions.takes_unsigned(x, weight, module)
    module = torch.nn.Conv2d(4, 4, 3)
    assert functions.takes_unsigned(x, weight, module)
    module.margins = (1, 0, 1, 0)
    assert not functions.takes_unsigned(x, weight, module)
