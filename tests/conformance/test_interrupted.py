"""Interrupted forwards: repeating the forward has the result of an undisturbed run, wherever the first run stopped."""

from __future__ import annotations

import collections
import contextlib
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.conformance.subject import DYNAMIC, FX, PTQ, QAT, Subject, batch, grids_of
from tests.support.fx_path import make_config

# Files whose calls are no part of the work on a batch: they undo it.
_UNDOING = ("rollback.py", "calibration_forward.py")
_PACKAGE = str(Path(amct.__file__).parent)

Place = tuple[str, int, str]


class Stopped(BaseException):
    """As KeyboardInterrupt, no Exception."""


class Observed(nn.Module):
    """Two layers: one has taken a batch when the other fails on it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Histogram(torch.ao.quantization.HistogramObserver):
    """torch's, but the whole range counts: the search for a better one takes 100,000 steps."""

    def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
        return self.min_val, self.max_val


def quantizer(name: str, **args: Any) -> dict[str, Any]:
    return {"quantizer": name, "quantizer_args": args}


ARQ = quantizer("ArqWeightFakeQuantize")
SNQ = quantizer("SnqWeightFakeQuantize", max_iteration=500)
LNQ = quantizer("LnqFakeQuantize", max_iteration=500)
LUQ_WEIGHT = quantizer("LuqWeightFakeQuantize")
IFMR = quantizer("UlqFakeQuantize", batch_num=2)
IFMR_SYMMETRIC = quantizer("UlqFakeQuantize", batch_num=2, with_offset=False)
LUQ_MSE = quantizer("LuqActivationFakeQuantize", qscheme="dynamic")
LUQ_IFMR = quantizer("LuqActivationFakeQuantize", observer="IFMRObserver", batch_num=2)
MIN_MAX = quantizer("UlqFakeQuantize", observer="torch.quantization.MinMaxObserver")
HISTOGRAM = quantizer("UlqFakeQuantize", observer=f"{__name__}.Histogram")
TORCH = quantizer(
    "torch.quantization.FakeQuantize",
    observer="torch.quantization.MovingAverageMinMaxObserver",
    dtype="torch.qint8",
    quant_min=-128,
    quant_max=127,
)


@pytest.mark.parametrize(
    ("activation", "weight", "mode"),
    [
        pytest.param(IFMR, SNQ, {}, id="IFMRObserver, SnqObserver"),
        pytest.param(IFMR_SYMMETRIC, LNQ, {}, id="IFMRObserver symmetric, LNQ"),
        pytest.param(LUQ_MSE, LUQ_WEIGHT, {}, id="LuqMseObserver, LUQ of a weight"),
        pytest.param(LUQ_IFMR, ARQ, {}, id="LUQ with IFMRObserver"),
        pytest.param(MIN_MAX, ARQ, {}, id="torch's MinMaxObserver"),
        pytest.param(HISTOGRAM, ARQ, {}, id="torch's HistogramObserver"),
        pytest.param(TORCH, ARQ, {}, id="torch's FakeQuantize"),
        pytest.param(IFMR, LNQ, {"fake_quant": True}, id="IFMRObserver, LNQ, and fake_quant"),
    ],
)
def test_fx_forward_stopped_at_every_call(
    activation: dict[str, Any], weight: dict[str, Any], mode: dict[str, bool], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Observed().eval()
    entry: dict[str, Any] = {"activation_quant_params": [activation], "weight_quant_params": weight}
    config = make_config(model, tmp_path, {"conv": entry, "fc": entry})

    def fresh() -> nn.Module:
        quantized = amct.create_quant_model_fx(config, model)
        amct.enable_quantization(quantized, calibration=True, **mode)
        return quantized

    disturbed, plain = fresh(), fresh()
    with torch.no_grad():
        disturbed(batch(0, 2))
        stopped_everywhere(disturbed, lambda model: model(batch(1, 2)))
        for seed in range(2):
            plain(batch(seed, 2))
    assert_same(disturbed, plain)


@pytest.mark.parametrize("use", [PTQ, QAT])
def test_dynamic_forward_stopped_at_every_call(use: str, tmp_path: Path) -> None:
    records = []
    models = []
    for name in ("disturbed", "plain"):
        subject = Subject(DYNAMIC, use, tmp_path / name)
        subject.folder.mkdir()
        torch.manual_seed(0)
        model = subject.make(Observed())
        with torch.no_grad():
            for step in range(4 if use == QAT else 2):
                model.train(use == QAT and step < 2)
                if name == "disturbed" and step % 2:  # the end of the calibration, of the export
                    stopped_everywhere(model, lambda model, step=step: model(batch(step, 2)))
                else:
                    model(batch(step, 2))
        models.append(model)
        records.append(subject.record.read_text())
    assert_same(*models)
    assert "record_d" in records[1] or "record" in records[1]
    assert records[0] == records[1]


@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_training_forward_stopped_at_every_call(path: str, tmp_path: Path) -> None:
    """Neither grids nor BatchNorm statistics of layers whose channels are lost in rounding are left half done."""
    subject = Subject(path, QAT, tmp_path)
    torch.manual_seed(0)
    model = subject.make()
    subject.switch(model, calibration=True)
    with torch.no_grad():
        model(batch(0, 2)), model(batch(1, 2))
    subject.switch(model)
    amct.freeze_batch_norm(model)
    before = copy.deepcopy(model.state_dict())
    stopped_everywhere(model, lambda model: model(batch(2, 2)).sum().backward())
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"amct_layers.conv3.weight.training_forwards"}


def stopped_everywhere(model: nn.Module, forward: Callable[[nn.Module], Any]) -> None:
    """Runs ``forward(model)``, stopped at every place that calls a function of the package; then to its end.

    Of a place that comes by often, as for every layer, the last time is tried: what came before has been done by then.
    """
    often: collections.Counter[Place] = collections.Counter()
    watched(lambda place: often.update([place]), lambda: forward(copy.deepcopy(model)))
    tried: set[Place] = set()
    is_stopped = True
    while is_stopped:
        seen: collections.Counter[Place] = collections.Counter()
        is_stopped = False

        def stop_where_new(place: Place, seen: collections.Counter[Place] = seen) -> None:
            nonlocal is_stopped
            seen[place] += 1
            if place not in tried and seen[place] >= often[place]:
                tried.add(place)
                is_stopped = True
                raise Stopped

        with contextlib.suppress(Stopped):
            watched(stop_where_new, lambda: forward(model))
            assert not is_stopped, "the forward came to its end although it was stopped"
    assert len(tried) > 50


def watched(see: Callable[[Place], None], forward: Callable[[], Any]) -> None:
    """Runs ``forward`` and shows each call of a function of the package: where it stands, and what is called."""

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        code, caller = frame.f_code, frame.f_back
        # Python itself closes a generator expression that was not read to its end, and ignores errors there.
        if _PACKAGE in code.co_filename and code.co_name != "<genexpr>" and not code.co_filename.endswith(_UNDOING):
            assert caller is not None
            see((caller.f_code.co_filename, caller.f_lineno, code.co_name))

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        forward()
    finally:
        sys.settrace(before)


def assert_same(left: nn.Module, right: nn.Module) -> None:
    assert grids_of(left).keys() == grids_of(right).keys() and grids_of(right)
    for name, grid in grids_of(right).items():
        assert torch.equal(grids_of(left)[name], grid), name
    for name, value in right.state_dict().items():
        assert torch.equal(left.state_dict()[name], value), name
