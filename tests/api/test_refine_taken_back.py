"""refine takes back what raises the error at the outputs of the network; the model is then as saved, and exact."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.layers.layer_container import layers_of
from hotwheels.amct_pytorch.core.refine.shift import ShiftSum
from hotwheels.amct_pytorch.workflows.refine.saved_layers import layer_state
from tests.support import dynamic_path
from tests.support.exact_pair import assert_equal, run_oracle, run_torch
from tests.support.fx_path import quantize, run_fake
from tests.support.nets import shake_batch_norms

CLASSES = 10
CODEBOOK = {
    "fx": {"quantizer": "SnqWeightFakeQuantize", "quantizer_args": {"num_bits": 4, "observer": "SnqObserver"}},
    "dynamic": {"wts_algo": "snq_quantize", "num_bits": 4},
}


class Net(nn.Module):
    """Convolutions with and without BatchNorm, a Linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.point(x)).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net().eval()
    shake_batch_norms(model)
    return model


@pytest.fixture(autouse=True)
def misled(monkeypatch):
    """The correction of the last layer's bias is wrong, as if the calibration pictures were misleading."""
    shift = ShiftSum.shift

    def misled_shift(self):
        found = shift(self)
        return found + 0.5 if len(found) == CLASSES else found

    monkeypatch.setattr(ShiftSum, "shift", misled_shift)


def pictures(seed, count=24):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (16, 16), mode="bilinear")


def calibrated(net, folder, path):
    changes = {name: {"weight_quant_params": CODEBOOK[path]} for name in ("stem", "point", "head")}
    if path == "fx":
        return quantize(net, folder, [(pictures(1),)], changes)
    files = dynamic_path.make_config(net, folder, pictures(1))
    files.change(**{name: files.document[name] | one for name, one in changes.items()})
    model = dynamic_path.quantize(net, files, pictures(1))
    dynamic_path.run(model, pictures(1))
    return model


def states_of(model):
    layers = layers_of(model).items()
    return {name: layer_state(layer)["own"] for name, layer in layers if layer.weighted is not None}


both_paths = pytest.mark.parametrize("path", ["fx", "dynamic"])


@both_paths
def test_a_layer_that_loses_is_taken_back_and_the_others_stay(net, tmp_path, log_lines, path):
    model = calibrated(net, tmp_path, path)
    x = pictures(2)
    noise = (run_fake(model, x) - net(x)).square().sum()
    before = copy.deepcopy(states_of(model))
    result = amct.refine(model, [(part,) for part in pictures(1).split(8)], progress=False)
    assert result.taken_back == ("head",)
    assert "taken back: from 'head' on, so the noise falls by" in "".join(log_lines.of("INFO"))
    assert "head: unchanged; no compensated_rounding: taken back, since the error of held-out" in str(result)
    for layer, state in states_of(model).items():
        for name, value in state.items():
            assert torch.equal(value, before[layer][name]) == (layer == "head")
    assert (run_fake(model, x) - net(x)).square().sum() < noise
    if path == "fx":
        amct.save_quant_model_fx(model, tmp_path / "out" / "model", x)
    else:
        dynamic_path.Files(tmp_path).save()
    assert_equal(layers_of(model), run_torch(model, [x]), run_oracle(tmp_path / "out" / "model", [x]))


@both_paths
def test_the_model_is_as_before_if_all_loses(net, tmp_path, path):
    model = calibrated(net, tmp_path, path)
    before = copy.deepcopy(model.state_dict())
    result = amct.refine(model, [pictures(1)], {"bias_correction": "head"}, progress=False)
    assert result.taken_back == ("head",)
    assert not any(one.methods for one in result.layers)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []


def test_a_call_that_goes_on_takes_back_too(net, tmp_path):
    batches = [(part,) for part in pictures(1).split(8)]
    first, second = (calibrated(net, tmp_path, "fx") for _ in range(2))
    for model in (first, second):
        result = amct.refine(model, batches, progress=False, resume_dir=tmp_path / "part")
        assert result.taken_back == ("head",)
    assert torch.equal(run_fake(first, pictures(2)), run_fake(second, pictures(2)))
