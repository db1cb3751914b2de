"""Operations between the layers are computed in float64, with the aliases and in-place changes of the float model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.real_quant.real_quant_mode import call_layer, run_real_quant
from hotwheels.amct_pytorch.core.accumulator import Accumulator
from tests.support import dynamic_path, fx_path
from tests.support.log_lines import LogLines, log_lines

__all__ = ["log_lines"]

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(2))
_LIBRARY = torch.library.Library("amct_tests", "DEF")
_LIBRARY.define("type_of(Tensor x) -> int")
_LIBRARY.impl("type_of", lambda x: x.element_size(), "CompositeExplicitAutograd")


def layer(x: Tensor) -> Accumulator:
    """Stands for a quantized layer: steps of 0.25."""
    return Accumulator.of(torch.round(x.double() / 0.25), torch.tensor(0.25, dtype=torch.float64))


def run(function: Callable[[Tensor], object], x: Tensor = X) -> object:
    with torch.no_grad():
        return run_real_quant(nn.Module(), lambda x: function(call_layer(layer, (x,), {})), (x,), {})


def _in_place(x: Tensor) -> Tensor:
    x += 0.1
    return x


def _through_a_view(x: Tensor) -> Tensor:
    x[:, 1].mul_(1.7)
    x[..., ::2] = 0.3
    return x


def _alias(x: Tensor) -> Tensor:
    before = x
    F.relu(x, inplace=True)
    return before


def _copy(x: Tensor) -> Tensor:
    before = x.clone()
    x.add_(1.0)
    return before * 0.1


def _fresh(x: Tensor) -> Tensor:
    out = torch.zeros(2, 4, 6, 6)
    out[:, :2] = x[:, 2:] / 3
    return out


def _scripted(x: Tensor) -> Tensor:
    return torch.jit.script(_halved)(x)


def _halved(x: Tensor) -> Tensor:
    return x * 0.5


@pytest.mark.parametrize(
    "function",
    [
        _in_place, _through_a_view, _alias, _copy, _fresh, _scripted,
        lambda x: x.double().add_(1).float() + x, lambda x: 1 / (x + 9),
    ],
)  # fmt: skip
def test_model_computes_what_it_does_in_float(function: Callable[[Tensor], Tensor]) -> None:
    expected = function(torch.round(X / 0.25) * 0.25)
    torch.testing.assert_close(run(function), expected, rtol=3e-7, atol=3e-7)


def test_result_of_a_layer_stays_exact_until_it_is_changed() -> None:
    seen: list[Tensor] = []

    def consumer(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(1)

    def model(x: Tensor) -> Tensor:
        for one in (x, x.contiguous(), x.clone(), x.view(x.shape), x.float(), x.data, x.flatten(1)):
            call_layer(consumer, (one,), {})
        call_layer(consumer, (_in_place(x),), {})
        return x

    run(model)
    assert [type(one) is Accumulator for one in seen] == [True] * 6 + [False] * 2


def test_input_is_divided_in_float32_until_something_is_computed() -> None:
    types: list[torch.dtype] = []
    consumer = lambda x: types.append(x.dtype) or torch.zeros(1)  # noqa: E731
    with torch.no_grad():
        run_real_quant(
            nn.Module(), lambda x: [call_layer(consumer, (one,), {}) for one in (x, x * 1.0, F.conv2d(x, X))], (X,), {}
        )
    assert types == [torch.float32, torch.float64, torch.float32]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.nan_to_num(x.relu().log()),
        lambda x: x.relu().log().nan_to_num(0.0, None, None),
        lambda x: torch.nan_to_num(x.relu().log(), neginf=-5.0),
        lambda x: (1 / x.relu()).nan_to_num_(posinf=7.0),
    ],
)
def test_infinities_become_the_limits_of_float32(function: Callable[[Tensor], Tensor]) -> None:
    rounded = torch.round(X / 0.25) * 0.25
    torch.testing.assert_close(run(function), function(rounded), rtol=1e-6, atol=0)


def test_operators_of_a_user_get_float32() -> None:
    assert run(lambda x: torch.ops.amct_tests.type_of(x * 0.5)) == 4


def test_argument_of_the_caller_is_not_changed() -> None:
    before = X.clone()
    with torch.no_grad():
        run_real_quant(nn.Module(), _in_place, (X,), {})
    assert torch.equal(X, before)


@dataclasses.dataclass(frozen=True)
class Answer:
    scores: Tensor
    name: str = "answer"


def test_outputs_are_float32_also_in_a_dataclass() -> None:
    result = run(lambda x: {"a": [x * 0.5], "b": Answer(x)})
    assert result["a"][0].dtype == result["b"].scores.dtype == torch.float32
    assert result["b"].name == "answer"


class Wrapped(nn.Module):
    """A function of the user between layers, which copies and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(shifted(self.conv(x)).mean((2, 3)))


@torch.fx.wrap
def shifted(x: Tensor) -> Tensor:
    y = x.clone()
    y.add_(1)
    return y * x.sigmoid()


@pytest.mark.parametrize("path", ["fx", "dynamic"])
def test_inference_mode(path: str, tmp_path: Path, log_lines: LogLines) -> None:
    """Its tensors do not count changes in place; results are equal, also for a function that a graph does not show."""
    if path == "fx":
        quantized = fx_path.quantize(Wrapped().eval(), tmp_path, [(X,)])
    else:
        quantized, _ = dynamic_path.calibrated(Wrapped().eval(), tmp_path, [(X,)])
    amct.enable_quantization(quantized, real_quant=True)
    expected = dynamic_path.run(quantized, X)
    with torch.inference_mode():
        assert torch.equal(quantized(X), expected)
        assert torch.equal(quantized(X.clone()), expected)
    assert not [line for line in log_lines.warnings if "does not take float64" in line]
