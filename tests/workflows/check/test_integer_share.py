"""The share of multiplications on integers, compared with counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.fx_path import quantize


class Mixed(nn.Module):
    """Convolutions in and out of integers, a product with a constant only, a BatchNorm that nothing takes up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.volume, self.last = nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 2), nn.Linear(4, 5)
        self.table, self.mlp = nn.Parameter(torch.randn(7, 4)), nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm(F.hardswish(self.first(x))))
        volume = self.volume(x[:, None]).mean((1, 2, 3, 4))
        return self.last(y.mean((2, 3)) + self.mlp(self.table).mean(0)) + volume[:, None]


FIRST = 4 * 3 * 9 * 6 * 6 * 2  # outputs, inputs, kernel, 6 x 6 pixels, 2 images
VOLUME = 2 * 1 * 2**3 * 2 * 7 * 7 * 2
LAST = 4 * 5 * 2


def test_share_is_counted_over_layers_and_what_is_outside() -> None:
    torch.manual_seed(0)
    report = amct.check_model(Mixed().eval(), torch.randn(2, 3, 8, 8))
    found = report.multiplications
    assert found is not None
    assert (found.integer, dict(found.floating)) == (FIRST + LAST, {"volume": VOLUME})
    assert found.reasons["volume"] == "Conv3d is not an operation that can be quantized; it runs in float as a whole"
    assert found.share == (FIRST + LAST) / (FIRST + LAST + VOLUME)
    assert not found.is_sufficient
    assert not report.is_on_integers
    left = {one.name: one.reason for one in report.batch_norms}
    assert left == {"norm": "no layer with a weight is next to it, but 'hardswish'"}
    text = str(report)
    assert f"{100 * found.share:.2f} % of" in text
    assert "That is not enough. At least 99.9 % of the multiplications are wanted on integers." in " ".join(
        text.split()
    )
    assert "BatchNorms that are not folded: 1" in text
    assert "Multiplications in float: 1" in text


def test_foldable_batch_norm_that_is_left_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row FUSE_TYPES of the user's capacity file does not name the class of the BatchNorm."""
    capacity = tmp_path / "capacity.csv"
    capacity.write_text("FUSE_TYPES, list, BatchNorm1d\n")
    monkeypatch.setenv("AMCT_CAPACITY", str(capacity))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    report = amct.check_model(model, torch.randn(2, 3, 8, 8))
    assert not report.is_on_integers
    reason = "BatchNorm '_1' is not folded: the capacity row FUSE_TYPES does not name its class."
    assert reason in " ".join(str(report).split())


def test_layer_that_is_off_counts_as_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    quantized = quantize(Mixed().eval(), tmp_path, [(x,)], {"last": {"quant_enable": False}})
    found = amct.check_model(quantized, x).multiplications
    assert found is not None
    assert found.integer == FIRST
    assert found.reasons["last"] == "quant_enable is false"


def test_analyzer_returns_the_share(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    found = amct.QuantAnalyzer(Mixed().eval(), x, tmp_path).analyze()["multiplications"]
    assert found["floating"] == {"volume": VOLUME}
    assert found["integer"] == FIRST + LAST


class WithUnusedHead(nn.Module):
    """A convolution and a product whose results nothing returns, like the second head of some YOLO networks."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 64, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        other = self.unused(y).flatten(2)
        other = other @ other.transpose(1, 2)
        return self.last(y.mean((2, 3)))


def test_what_no_output_depends_on_does_not_count() -> None:
    found = amct.check_model(WithUnusedHead().eval(), torch.randn(2, 3, 8, 8)).multiplications
    assert found is not None
    assert (found.integer, dict(found.floating)) == (FIRST + LAST, {})


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind, gates", [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_count(kind: type[nn.RNNBase], gates: int, directions: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.last = kind(8, 6, 2, bidirectional=directions == 2), nn.Linear(6 * directions, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.rnn(x)[0])

    steps, samples = 5, 2
    found = amct.check_model(Net().eval(), torch.rand(steps, samples, 8)).multiplications
    assert found is not None
    per_sample = gates * 6 * directions * ((8 + 6) + (6 * directions + 6))
    assert dict(found.floating) == {"rnn": steps * samples * per_sample}
    assert found.integer == steps * samples * 6 * directions * 3
