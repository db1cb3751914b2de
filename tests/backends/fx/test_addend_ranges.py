"""Ranges of addends in front of a ReLU: calibration cuts them where the ReLU gives 0, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx import addend_ranges, quant_graph_module
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import quantize, run_fake


class Block(nn.Module):
    """A small branch beside a large projection, whose sum ``behind`` reads."""

    def __init__(self, behind=torch.relu, combine=torch.add, others=False):
        super().__init__()
        self.branch, self.projection = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.projection.weight.mul_(4.0)
        self.behind, self.combine, self.others = behind, combine, others

    def forward(self, x):
        shortcut = self.projection(x)
        total = self.combine(self.branch(x), shortcut)
        result = self.head(self.behind(total))
        if self.others:
            result = result + self.head(total)
        return result


def pictures(seed):
    return torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def calibrated(model, folder, changes=None):
    torch.manual_seed(0)
    quantized = quantize(model.eval(), folder, [(pictures(1),)], changes or {})
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


def addends(model):
    (layer,) = (one for one in model.quantized_layers.values() if one.op.name == "add")
    return layer.activation


def block(**options):
    torch.manual_seed(0)
    return Block(**options)


@pytest.fixture
def uncut(tmp_path, monkeypatch):
    """Returns a model calibrated as by an earlier version, which left the ranges of addends as they were."""

    def make(net, **options):
        with monkeypatch.context() as patch:
            patch.setattr(quant_graph_module, "cut_addends", lambda *_: ())
            return calibrated(net, tmp_path, **options)

    return make


@pytest.mark.parametrize("behind", [torch.relu, nn.functional.relu6])
def test_the_larger_addend_begins_where_the_other_cannot_lift_it_above_0(tmp_path, uncut, behind):
    net = block(behind=behind)
    (own, before), (branch, projection) = addends(uncut(net)), addends(calibrated(net, tmp_path))
    scale, low = float(before.params().scale), float(before.clip_min.detach())
    params, other = projection.params(), branch.params()
    assert torch.equal(other.scale, own.params().scale)
    bottom = (-128 - int(params.offset)) * float(params.scale)
    top = (127 - int(other.offset)) * float(other.scale)
    assert low < bottom <= -top
    assert bottom > -top - 1.01 * float(params.scale)
    assert float(params.scale) < 0.8 * scale


def test_the_result_is_nearer_and_exact(tmp_path, uncut):
    net, x = block(), pictures(2)

    def error(model):
        with torch.no_grad():
            return float((run_fake(model, x) - net(x)).square().mean())

    before = error(uncut(net))
    model = calibrated(net, tmp_path)
    assert error(model) < before
    assert_exact(model, tmp_path, [x])


def test_only_the_forward_that_completes_the_calibration_cuts(tmp_path):
    data = {"quantizer": "UlqFakeQuantize", "quantizer_args": {"observer": "IFMRObserver", "batch_num": 2}}
    net = block()
    amct.create_quant_config_fx(tmp_path / "config.json", net.eval())
    model = quantize(net, tmp_path, [(pictures(1),)], {"add": {"activation_quant_params": [data, data]}})
    branch, projection = addends(model)
    assert not projection.is_calibrated
    amct.enable_quantization(model, calibration=True)
    ends = []
    for _ in range(3):
        with torch.no_grad():
            model(pictures(1))
        ends.append((float(projection.clip_min.detach()), -float(branch.clip_max.detach())))
    assert ends[0][0] == pytest.approx(ends[0][1], rel=0.02)
    assert ends[0] == ends[1] == ends[2]


def test_training_learns_its_own_ranges(tmp_path, uncut):
    net = block()
    low = float(addends(uncut(net))[1].clip_min.detach())
    amct.create_quant_config_fx(tmp_path / "config.json", net)
    model = amct.create_quant_model_fx(tmp_path / "config.json", net)
    amct.enable_quantization(model, calibration=True, fake_quant=True)
    with torch.no_grad():
        model(pictures(1))
    assert float(addends(model)[1].clip_min.detach()) == pytest.approx(low, rel=0.05)


def test_refine_cuts_a_model_of_an_earlier_version_and_says_so(uncut):
    model = uncut(block())
    low = addends(model)[1].clip_min.clone()
    result = amct.refine(model, [pictures(1)], progress=False)
    (name,) = result.cut_addends
    assert f"{name}: range cut where the ReLU behind the sum gives 0" in str(result)
    assert addends(model)[1].clip_min > low
    low = addends(model)[1].clip_min.clone()
    assert amct.refine(model, [pictures(1)], progress=False).cut_addends == ()
    assert torch.equal(addends(model)[1].clip_min, low)


@pytest.mark.parametrize("seed", range(4))
def test_refine_does_not_cut_again(tmp_path, seed):
    torch.manual_seed(seed)
    model = quantize(Block().eval(), tmp_path, [(pictures(seed),)])
    low = addends(model)[1].clip_min.clone()
    assert amct.refine(model, [pictures(seed)], progress=False).cut_addends == ()
    assert torch.equal(addends(model)[1].clip_min, low)


def scaled(a, b):
    return torch.add(a, b, alpha=-1.0)


SYMMETRIC = {"with_offset": False, "observer": "IFMRObserver", "num_bits": 8}
LEFT = {
    "another activation": ({"behind": nn.functional.hardswish}, False),
    "another reader": ({"others": True}, False),
    "a factor": ({"combine": scaled}, False),
    "a product": ({"combine": torch.mul}, False),
    "a symmetric range": ({}, True),
}


@pytest.mark.parametrize(("options", "is_symmetric"), LEFT.values(), ids=LEFT)
def test_other_ranges_stay(tmp_path, uncut, options, is_symmetric):
    data = {"quantizer": "UlqFakeQuantize", "quantizer_args": SYMMETRIC}
    changes = {"add": {"activation_quant_params": [data, data]}} if is_symmetric else {}
    before = uncut(block(**options), changes=changes).state_dict()
    model = calibrated(block(**options), tmp_path, changes)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_cut_that_loses_is_taken_back(uncut, monkeypatch):
    model = uncut(block())
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def too_much(quantizer, other):
        return quantizer.raise_lower_end(-0.1)

    monkeypatch.setattr(addend_ranges, "_cut", too_much)
    result = amct.refine(model, [pictures(1)], {"bias_correction": []}, progress=False)
    assert result.cut_addends == ()
    assert result.taken_back == ("add",)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
