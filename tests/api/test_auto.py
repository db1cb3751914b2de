"""auto_quantize: noises are those of layers quantized alone, the result keeps the rules and is what was measured."""

from __future__ import annotations

import copy
import json
import math
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.workflows.auto import sensitivity
from hotwheels.amct_pytorch.workflows.auto.search import _Search
from tests.support.fx_path import run_fake
from tests.support.log_lines import LogLines
from tests.support.nets import shake_batch_norms


class Net(nn.Module):
    """Two branches that read one tensor, an addition, a product of two tensors, a pooling without a command."""

    def __init__(self, is_cut: bool = False):
        super().__init__()
        self.is_cut = is_cut
        self.stem, self.norm = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.left, self.right = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(12, 6)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = self.left(x) + torch.relu(self.right(x))
        y = self.pool(y).flatten(2)
        y = y.detach() if self.is_cut else y
        return self.head((y @ y.transpose(1, 2)).mean(1) / 16)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net().eval()
    shake_batch_norms(model)
    return model


@pytest.fixture(scope="module")
def batches():
    coarse = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return [(one,) for one in nn.functional.interpolate(coarse, (16, 16), mode="bilinear").split(8)]


def found(net, batches, folder, **wanted):
    options = {"config_file": folder / "auto.yml", "progress": False, **wanted}
    return amct.auto_quantize(net, batches, **options)


def test_noise_is_that_of_the_layer_quantized_alone(net, batches, tmp_path, monkeypatch) -> None:
    searches = []
    monkeypatch.setattr(_Search, "run", lambda self: searches.append(self))
    with pytest.raises(AttributeError):
        found(net, batches, tmp_path, budget=1.0)
    (search,) = searches
    exact, estimated = [], []
    for setting, config in search._configs.items():
        quantized = sensitivity.calibrated(net, config, batches)
        for layer, options in search._options.items():
            noise = next((one.noise for one in options if one.name == setting), None)
            if noise:
                exact.append(sensitivity.alone(quantized, layer, batches))
                estimated.append(noise)
    ratios = torch.tensor(estimated) / torch.tensor(exact)
    # 128 squared draws per layer scatter by an eighth; 4 bits leave the linear range
    assert ratios.log2().abs().max() < 1.0
    ranks = [torch.tensor(one).argsort().argsort().double() for one in (exact, estimated)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.97


def test_result_keeps_the_rules_and_computes_what_was_measured(net, batches, tmp_path, caplog) -> None:
    result = found(net, batches, tmp_path, budget=1.2)
    assert result.chosen.cost <= 1.2
    config = tmp_path / "config.json"
    amct.create_quant_config_fx(config, net, tmp_path / "auto.yml")
    amct.enable_quantization(quantized := amct.create_quant_model_fx(config, net), calibration=True)
    assert "consistent num_bits" not in caplog.text  # the warning of the rules between layers
    with torch.no_grad():
        for batch in batches:
            quantized(*batch)
        noise = signal = 0.0
        for (x,) in batches:
            wanted = net(x)
            signal += 1.0
            noise += float((run_fake(quantized, x) - wanted).square().sum() / wanted.square().sum())
    assert 10 * torch.log10(torch.tensor(signal / noise)).item() == pytest.approx(result.chosen.measured, abs=0.05)
    entries = json.loads(config.read_text())
    widths = {name: one["activation_quant_params"][0]["quantizer_args"]["num_bits"] for name, one in entries.items()}
    assert widths["left"] == widths["right"]  # both read the output of the stem
    report = json.loads((tmp_path / "auto_report.json").read_text())
    assert report["chosen"]["measured"] == result.chosen.measured
    page = ElementTree.fromstring(
        (tmp_path / "auto_report.html")
        .read_text()
        .removeprefix("<!DOCTYPE html>")
        .replace('<meta charset="utf-8">', "")
    )
    (curve,) = page.iter("polyline")
    xs, ys = zip(*(map(float, point.split(",")) for point in curve.attrib["points"].split()), strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)  # more cost, more dB, and y grows downwards
    assert len(list(page.iter("circle"))) == 1 + len(result.uniform)
    assert [row[0].text for row in page.iter("tr")][1:] == list(result.layers)


def test_a_budget_gives_no_less_than_one_setting_everywhere_at_that_cost(net, batches, tmp_path) -> None:
    chosen = found(net, batches, tmp_path, budget=1.0, weights=("8",), data_bits=(8,)).chosen
    assert chosen.cost == pytest.approx(1.0)
    config = tmp_path / "config.json"
    amct.create_quant_config_fx(config, net)
    document = json.loads(config.read_text())
    for layer in document.values():
        for data in layer["activation_quant_params"]:
            data["quantizer_args"]["batch_num"] = len(batches)
    config.write_text(json.dumps(document))
    quantized = amct.create_quant_model_fx(config, net)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        for batch in batches:
            quantized(*batch)
        ratios = [(run_fake(quantized, x) - net(x)).square().sum() / net(x).square().sum() for (x,) in batches]
    assert chosen.measured >= -10 * torch.log10(torch.stack(ratios).mean()) - 1e-3


def test_wide_data_has_room_for_values_that_calibration_has_not_seen(net, batches, tmp_path) -> None:
    louder = torch.cat([1.15 * x for (x,) in batches])
    found(net, batches, tmp_path, budget=9.0, weights=("8",), data_bits=(8, 12))
    (tmp_path / "twelve.yml").write_text(
        "common_config:\n"
        "  activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 12, batch_num: 4}}\n"
    )
    noise = {}
    for name in ("auto", "twelve"):
        amct.create_quant_config_fx(tmp_path / "config.json", net, tmp_path / f"{name}.yml")
        quantized = amct.create_quant_model_fx(tmp_path / "config.json", net)
        amct.enable_quantization(quantized, calibration=True)
        with torch.no_grad():
            for batch in batches:
                quantized(*batch)
            noise[name] = (run_fake(quantized, louder) - net(louder)).square().sum()
    assert noise["auto"] < noise["twelve"] / 4


def test_more_budget_is_less_noise_and_a_target_is_met_at_the_least_cost(net, batches, tmp_path) -> None:
    folder = {"resume_dir": tmp_path / "kept"}
    small, large = (found(net, batches, tmp_path, budget=one, **folder) for one in (1.0, 1.5))
    assert large.chosen.predicted_db > small.chosen.predicted_db
    uniform = {one.name: one for one in small.uniform}
    assert small.chosen.predicted_db >= uniform["W8A8"].predicted_db
    target = found(net, batches, tmp_path, target=small.chosen.measured - 1.0, **folder)
    assert target.chosen.measured >= small.chosen.measured - 1.0
    assert target.chosen.cost <= small.chosen.cost
    curve = [(one.cost, one.predicted_db) for one in small.curve]
    assert curve == sorted(curve) and len(curve) > 3


def test_a_metric_of_the_user_s_chooses_along_the_curve(net, batches, tmp_path) -> None:
    seen = []

    def evaluate(model):
        seen.append(model)
        with torch.no_grad():
            return -sum(float((model(x) - net(x)).square().mean()) for (x,) in batches)

    plain = found(net, batches, tmp_path, budget=1.0)
    reached = found(net, batches, tmp_path, evaluate=evaluate, target=-1.0)
    assert reached.chosen.measured >= -1.0
    assert reached.float_measured == 0.0
    assert reached.chosen.cost <= plain.chosen.cost  # nothing is asked for, so the cheapest of all
    with pytest.raises(amct.ConfigError, match="no configuration reaches the target 1; the best that was"):
        found(net, batches, tmp_path, evaluate=evaluate, target=1.0)


def test_layers_without_a_gradient_are_quantized_alone(batches, tmp_path) -> None:
    torch.manual_seed(0)
    cut, whole = (Net(is_cut).eval() for is_cut in (True, False))
    whole.load_state_dict(cut.state_dict())
    results = [found(one, batches, tmp_path, budget=1.0) for one in (cut, whole)]
    noises = [[*(one.noise["W8A8"] for one in result.layers.values())] for result in results]
    assert min(noises[0]) > 0
    assert torch.tensor(noises[0]).log2().sub(torch.tensor(noises[1]).log2()).abs().max() < 1.0


def test_kept_sensitivities_are_used_again(net, batches, tmp_path, monkeypatch) -> None:
    first = found(net, batches, tmp_path, budget=1.0, resume_dir=tmp_path / "kept")
    monkeypatch.setattr(sensitivity, "OutputNoise", None)
    second = found(net, batches, tmp_path, budget=1.0, resume_dir=tmp_path / "kept")
    assert first.text == second.text
    with pytest.raises(amct.ConfigError, match="other data"):
        found(net, batches[:2], tmp_path, budget=1.0, resume_dir=tmp_path / "kept")
    other = copy.deepcopy(net)
    nn.init.zeros_(other.head.bias)
    with pytest.raises(amct.ConfigError, match="other data or weights"):
        found(other, batches, tmp_path, budget=1.0, resume_dir=tmp_path / "kept")
    (tmp_path / "kept" / "sensitivity.json").write_text("{")
    with pytest.raises(amct.ConfigError, match="is damaged"):
        found(net, batches, tmp_path, budget=1.0, resume_dir=tmp_path / "kept")


class Named(nn.Module):
    """An argument given by name, a number, a dict as result."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, scale, *, gain=None):
        x = self.net(x * scale)
        return {"all": x, "gained": x if gain is None else x * gain}


def test_batches_of_any_call(net, batches, tmp_path) -> None:
    calls = [(x, 0.5, {"gain": torch.full((len(x), 1), 2.0)}) for (x,) in batches]
    result = found(Named(net).eval(), calls, tmp_path, budget=1.0, refine=True)
    assert result.chosen.measured > 20
    assert all(one.noise["W8A8"] > 0 for name, one in result.layers.items() if name.startswith("net_head"))


def test_refinement_is_asked_for_and_measured(net, batches, tmp_path) -> None:
    plain, refined = (found(net, batches, tmp_path, budget=0.999, refine=one) for one in (False, True))
    assert refined.chosen.measured > plain.chosen.measured + 1
    assert "refine:" in refined.text and "refine:" not in plain.text


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "give either target or budget"),
        ({"target": 1, "budget": 1}, "give either target or budget"),
        ({"budget": 0.1}, "no configuration costs 0.1 or less; the cheapest costs"),
        ({"target": 200}, "no configuration reaches the target 200"),
        ({"budget": -1}, "budget is -1; allowed: above 0"),
        ({"budget": 0}, "budget is 0; allowed: above 0"),
        ({"budget": math.inf}, "budget is inf; a finite number is expected"),
        ({"target": math.nan}, "target is nan; a finite number is expected"),
        ({"budget": 0.01, "weights": ("8",)}, r"Give a larger budget, or weights of 4 bits\.$"),
        ({"budget": 0.01, "weights": ("8", "4")}, r"Give a larger budget\.$"),
        ({"target": 200, "refine": True}, r"Give a lower target\.$"),
        ({"budget": 1, "data_bits": (7, 8)}, "data_bits has 7; allowed: 8 to 16"),
        ({"budget": 1, "data_bits": (12,)}, "data_bits must have 8"),
        ({"budget": 1, "weights": ("8", "2")}, "weights has '2'; allowed: 8, 4, 4_codebook"),
    ],
)
def test_what_cannot_be_is_said(net, batches, tmp_path, wanted, message) -> None:
    with pytest.raises(amct.ConfigError, match=message):
        found(net, batches[:1], tmp_path, **wanted)


def test_wrong_numbers_are_refused_before_anything_is_measured(net, batches, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hotwheels.amct_pytorch.api.auto.search", lambda *_: pytest.fail("measured"))
    for wanted in ({"budget": -1}, {"target": math.nan}):
        with pytest.raises(amct.ConfigError):
            found(net, batches[:1], tmp_path, **wanted)
    with pytest.raises(TypeError, match="argument 'evaluate' must be a function of the model, got 5"):
        found(net, batches[:1], tmp_path, target=1.0, evaluate=5)


def test_a_width_or_a_weight_alone_is_a_list_of_one(net, batches, tmp_path) -> None:
    both = [
        found(net, batches[:1], tmp_path, budget=3.0, data_bits=bits, weights=weights).as_dict()["layers"]
        for bits, weights in ((8, "8"), ((8,), ("8",)))
    ]
    assert both[0] == both[1]


def test_no_data(net, tmp_path) -> None:
    with pytest.raises(amct.CalibrationError, match="the data has no batch"):
        found(net, [], tmp_path, budget=1.0)


def test_the_search_tells_its_result_and_not_each_calibration(net, batches, tmp_path, log_lines: LogLines) -> None:
    found(net, batches, tmp_path, budget=1.2)
    lines = log_lines.of("INFO")
    assert any(one.startswith("auto_quantize: chosen") for one in lines)
    assert not any("Calibrated" in one for one in lines)
    assert len(lines) == len(set(lines))
    assert len(log_lines.warnings) == len(set(log_lines.warnings))
