"""QuantAnalyzer: its numbers equal those of forwards in the same states, and the model is unchanged (spec 14)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.core.metrics import cosine, sqnr_db
from hotwheels.amct_pytorch.nn.mode import Mode
from tests.support.fx_path import make_config, quantize, run_fake, run_float, run_real
from tests.support.nets import Residual, Tokens

NAMES = [
    "graphwise_analysis_report.html",
    "index.html",
    "layerwise_analysis_report.html",
    "quant.dot",
    "quant.svg",
    "report.json",
    "statistic_analysis_report.html",
]


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The analyses which would be written: the report has tests of its own."""
    seen: list[Any] = []
    monkeypatch.setattr("hotwheels.amct_pytorch.report.html.write_reports", lambda one, folder: seen.append(one) or [])
    return seen


def test_reports_of_a_quantized_model(image: Tensor, tmp_path: Path) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    folder = tmp_path / "not" / "there yet"
    found = amct.QuantAnalyzer(quantized, image, folder).analyze()
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    figures = {"layerwise", "graphwise", "statistic", "outputs", "skipped", "multiplications"}
    assert set(found) == figures | {"settings", "remarks", "shares", "metric"}
    assert list(found["layerwise"]) == list(found["statistic"]) == list(quantized.quantized_layers)
    assert found["skipped"] == {}
    picture = (folder / "quant.svg").read_text()
    for name, change in found["graphwise"].items():
        sqnr = change["fake_quant"]["sqnr_db"]
        assert not math.isfinite(sqnr) or f"{sqnr:.1f} dB" in picture, name


def test_layerwise_quantizes_one_layer_alone(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    found = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()["layerwise"]
    wanted = run_float(quantized, image)
    for name, layer in quantized.quantized_layers.items():
        layer.mode = Mode.FAKE_QUANT
        with torch.no_grad(), quantized.keeping_inputs():  # siblings read the same tensor, in float
            got = quantized(image)
        layer.mode = Mode.FLOAT
        assert found[name]["sqnr_db"] == sqnr_db(wanted, got)
        assert found[name]["max_error"] == float((wanted.double() - got.double()).abs().max())


@pytest.mark.parametrize(("state", "run"), [("fake_quant", run_fake), ("real_quant", run_real)])
def test_graphwise_compares_every_node_with_float(
    state: str, run: Callable[..., Any], image: Tensor, tmp_path: Path, written: list[Any]
) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    analysis = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    wanted, got = {}, {}
    quantized.watch_next_forward(lambda node: wanted.update({node.name: node.value}))
    float_output = run_float(quantized, image)
    quantized.watch_next_forward(lambda node: got.update({node.name: node.value}))
    output = run(quantized, image)
    assert set(wanted) - set(analysis["graphwise"]) == {"image"}
    for name, node in analysis["graphwise"].items():
        assert node["is_quantized"] == (name in quantized.quantized_layers)
        assert node[state]["cosine"] == cosine(wanted[name], got[name])
        assert node[state]["sqnr_db"] == sqnr_db(wanted[name], got[name])
    assert analysis["outputs"][state][0]["sqnr_db"] == sqnr_db(float_output, output)


def test_float_results_which_do_not_fit_are_computed_again(
    image: Tensor, tmp_path: Path, written: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    whole = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    monkeypatch.setattr("hotwheels.amct_pytorch.workflows.analysis.analyzer._KEPT_BYTES", 1)
    assert amct.QuantAnalyzer(quantized, image, tmp_path).analyze() == whole


def test_statistic_describes_outputs_and_folded_weights(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    found = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()["statistic"]
    layer = quantized.quantized_layers["stem_0"]
    weight, bias = layer.weighted.op.folded()
    assert found["stem_0"]["weight"]["before"]["maximum"] == float(weight.detach().max())
    scales = layer.weighted.params(weight, bias).scale.reshape(-1, 1, 1, 1)
    assert found["stem_0"]["weight"]["difference"]["max_error"] <= float(scales.max()) / 2 * (1 + 1e-6)
    assert found["head"]["output"]["before"]["mean"] == pytest.approx(
        float(run_float(quantized, image).double().mean())
    )
    assert found["head"]["output"]["after"]["mean"] == pytest.approx(float(run_fake(quantized, image).double().mean()))
    assert [name for name, one in found.items() if one["weight"]] == ["stem_0", "conv1", "head"]


def test_a_float_model_is_copied_and_calibrated(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    found = amct.QuantAnalyzer(model, image, tmp_path).analyze()
    quantized = quantize(copy.deepcopy(model).eval(), tmp_path, [(image,)])
    assert found == amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


STATES = [Mode.FLOAT, Mode.CALIBRATION, Mode.FAKE_QUANT, Mode.REAL_QUANT]


@pytest.mark.parametrize("mode", STATES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_state_of_the_model_stays(
    mode: Mode, training: bool, image: Tensor, tmp_path: Path, written: list[Any]
) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)]).train(training)
    quantized.stem.eval()
    quantized.mode = mode
    before = copy.deepcopy(quantized.state_dict())
    amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    assert {layer.mode for layer in quantized.quantized_layers.values()} == {mode}
    assert (quantized.training, quantized.stem.training, quantized.bn1.training) == (training, False, training)
    assert all(torch.equal(value, before[name]) for name, value in quantized.state_dict().items())


def test_the_state_stays_when_a_forward_fails(image: Tensor, tmp_path: Path) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)]).train()
    quantized.mode = Mode.REAL_QUANT
    with pytest.raises(RuntimeError, match="channels"):
        amct.QuantAnalyzer(quantized, torch.randn(2, 5, 8, 8), tmp_path / "none").analyze()
    assert quantized.mode is Mode.REAL_QUANT
    assert quantized.training
    assert not (tmp_path / "none").exists()


def test_an_armed_dump_waits_for_the_users_forward(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    amct.enable_dump(quantized, tmp_path / "dump")
    amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    assert not (tmp_path / "dump").exists()
    quantized(image)
    assert list((tmp_path / "dump").iterdir())


def test_the_input_is_not_changed_by_a_model_that_works_in_place(tmp_path: Path, written: list[Any]) -> None:
    class Scaled(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, image: Tensor) -> Tensor:
            return self.body(image.div_(255))

    image = torch.rand(2, 3, 8, 8) * 255
    wrapper = Scaled(quantize(Residual().eval(), tmp_path, [(image / 255,)]))
    before = image.clone()
    found = amct.QuantAnalyzer(wrapper, image, tmp_path).analyze()
    assert torch.equal(image, before)
    assert found["outputs"]["fake_quant"][0]["sqnr_db"] > 20


def test_layers_of_several_graphs_are_told_apart(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    class Two(nn.Module):
        def __init__(self, left: nn.Module, right: nn.Module) -> None:
            super().__init__()
            self.left, self.right = left, right

        def forward(self, image: Tensor) -> list[Tensor]:
            return [self.left(image), self.right(image)]

    pair = Two(*(quantize(Residual().eval(), tmp_path, [(image,)]) for _ in range(2)))
    found = amct.QuantAnalyzer(pair, image, tmp_path).analyze()
    assert {"left.stem_0", "right.stem_0"} <= set(found["layerwise"])
    assert set(found["statistic"]) == set(found["layerwise"])
    assert found["layerwise"]["left.stem_0"]["outputs"][1]["max_error"] == 0.0
    assert found["layerwise"]["right.stem_0"]["outputs"][0]["max_error"] == 0.0


def test_integer_inputs_and_a_tuple_of_outputs(tmp_path: Path, written: list[Any]) -> None:
    inputs = (torch.randint(0, 10, (2, 4)), torch.tensor([[1, 1, 1, 0]] * 2), torch.randn(2, 4, 6))
    found = amct.QuantAnalyzer(Tokens().eval(), inputs, tmp_path).analyze()
    assert all(len(one["outputs"]) == 2 for one in found["layerwise"].values())
    assert found["outputs"]["real_quant"][0]["sqnr_db"] > 15
    assert written[0].inputs == "(2, 4) int64, (2, 4) int64, (2, 4, 6) float32"
    # ids + 1 adds integers: the layer is there and has nothing to quantize.
    assert found["skipped"]["add"] == "its inputs are not floating tensors"


def test_results_of_a_tuple_are_named_by_index(tmp_path: Path, written: list[Any]) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = torch.chunk(self.conv(x), 2, 1)
            return F.relu(left) + right

    found = amct.QuantAnalyzer(Halves(), torch.randn(1, 4, 3, 3), tmp_path).analyze()
    assert {"chunk[0]", "chunk[1]"} <= set(found["graphwise"])


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.conv(x))


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda x: (x, None), "output 1 of the model is of type NoneType"),
        (lambda x: {"out": x, "size": 3}, "output 1 of the model is of type int"),
    ],
    ids=["none", "number"],
)
def test_other_outputs_are_refused(wrap: Callable[[Tensor], Any], text: str, image: Tensor, tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match=text):
        amct.QuantAnalyzer(Returning(wrap), image, tmp_path).analyze()


def test_tensors_in_dicts_and_lists_are_compared(image: Tensor, tmp_path: Path) -> None:
    found = amct.QuantAnalyzer(Returning(lambda x: {"a": x, "b": [x.relu(), (x + 1,)]}), image, tmp_path).analyze()
    assert len(found["outputs"]["fake_quant"]) == 3


def test_keyword_arguments_are_in_a_dict_at_the_end(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
            return self.conv(x) * scale

    model = Scaled().eval()
    inputs = (torch.rand(2, 3, 8, 8), {"scale": torch.rand(2, 1, 1, 1)})
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=inputs)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=inputs)
    amct.enable_quantization(quantized, calibration=True)
    quantized(inputs[0], **inputs[1])
    found = amct.QuantAnalyzer(quantized, inputs, tmp_path / "report", more_inputs=[inputs]).analyze()
    assert set(found["layerwise"]) == {"conv", "mul"}


def test_a_model_that_is_not_calibrated_is_refused(image: Tensor, tmp_path: Path) -> None:
    model = Residual().eval()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    with pytest.raises(amct.CalibrationError, match="'stem_0' is not calibrated"):
        amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    assert quantized.mode is Mode.FLOAT


def test_a_model_without_quantizable_layers_is_refused(image: Tensor, tmp_path: Path) -> None:
    with pytest.raises(amct.ConfigError, match="No quant enable layer"):
        amct.QuantAnalyzer(nn.Identity(), image, tmp_path).analyze()


def test_arguments_of_another_type_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="QuantAnalyzer: argument 'model'"):
        amct.QuantAnalyzer("model", torch.zeros(1), tmp_path)
    with pytest.raises(TypeError, match="argument 'save_dir' must be a path"):
        amct.QuantAnalyzer(Residual(), torch.zeros(1), None)


@torch.fx.wrap
def halve(x: Tensor) -> Tensor:
    return x.mul_(0.5)


class InPlace(nn.Module):
    """A function of the user's own that works in place: what it changes cannot be computed once for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.second(y)
        return z + halve(y)


@pytest.mark.parametrize("net", [Residual, InPlace])
def test_layerwise_is_the_naive_loop_bit_for_bit(
    net: type[nn.Module], image: Tensor, tmp_path: Path, written: list[Any]
) -> None:
    quantized = quantize(net().eval(), tmp_path, [(image,)])
    found = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()["layerwise"]
    wanted = run_float(quantized, image)
    assert list(found) == list(quantized.quantized_layers)
    for name, layer in quantized.quantized_layers.items():
        layer.mode = Mode.FAKE_QUANT
        with torch.no_grad(), quantized.keeping_inputs():  # siblings read the same tensor, in float
            got = quantized(image)
        layer.mode = Mode.FLOAT
        assert (found[name]["sqnr_db"], found[name]["cosine"]) == (sqnr_db(wanted, got), cosine(wanted, got))


def test_what_lies_in_front_of_a_layer_runs_once(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    from hotwheels.amct_pytorch.backends.fx.float_prefix import FloatPrefix

    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    calls = dict.fromkeys(quantized.quantized_layers, 0)
    for name, layer in quantized.quantized_layers.items():
        layer.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    with torch.no_grad():
        assert len(list(FloatPrefix(quantized, (image,)).outputs())) == len(calls)
    # The k-th layer runs once for each layer up to itself, and once in the float walk.
    assert list(calls.values()) == [index + 2 for index in range(len(calls))]


def test_worst_layers_come_with_the_next_step(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    found = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()
    order = sorted(found["layerwise"], key=lambda name: found["layerwise"][name]["sqnr_db"])
    assert list(found["remarks"]) == order[:10]
    for name, remark in found["remarks"].items():
        wanted, base = run_float(quantized, image), run_fake(quantized, image)
        quantized.quantized_layers[name].mode = Mode.FLOAT
        with torch.no_grad(), quantized.keeping_inputs():
            without = quantized(image)
        assert remark["gain_db"] == pytest.approx(sqnr_db(wanted, without) - sqnr_db(wanted, base))
        assert remark["steps"]
        says_float = any(step["text"].startswith("Leave it in float") for step in remark["steps"])
        assert not says_float or remark["gain_db"] >= 0.2, "float is offered where it gains"
        if remark["gain_db"] < 0.2:
            assert any(step["text"].startswith("No step for this layer alone") for step in remark["steps"])
            assert not any("give it 16 bits" in step["text"] for step in remark["steps"])
    texts = [step["yaml"] for remark in found["remarks"].values() for step in remark["steps"] if step["yaml"]]
    assert texts
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.yaml").write_text(text)
        amct.create_quant_config_fx(tmp_path / f"{index}.json", Residual().eval(), tmp_path / f"{index}.yaml")


def test_settings_are_those_of_the_quantizers(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    found = amct.QuantAnalyzer(quantized, image, tmp_path).analyze()["settings"]
    data, weight = found["conv1"]
    params = quantized.quantized_layers["conv1"].activation[0].params()
    assert (data["what"], data["num_bits"], data["scales"][0]) == ("input 0", 8, float(params.scale))
    assert (data["offset"], data["quantizer"], data["observer"]) == (
        int(params.offset),
        "UlqFakeQuantize",
        "IFMRObserver",
    )
    assert (weight["what"], weight["quantizer"]) == ("weight", "ArqWeightFakeQuantize")


def test_several_batches_and_the_users_metric(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(image,)])
    other = torch.randn(2, 3, 8, 8)
    seen: list[Mode] = []

    def evaluate(model: nn.Module) -> float:
        seen.append(model.mode)
        return float(model(image).mean())

    analyzer = amct.QuantAnalyzer(quantized, image, tmp_path, more_inputs=[other], evaluate=evaluate)
    found = analyzer.analyze()
    metric = found["metric"]
    assert metric["float"] == float(run_float(quantized, image).mean())
    assert metric["fake_quant"] == float(run_fake(quantized, image).mean())
    assert metric["real_quant"] == float(run_real(quantized, image).mean())
    assert {name for name in metric if name.startswith("without ")} == {f"without {name}" for name in found["remarks"]}
    alone = [amct.QuantAnalyzer(quantized, batch, tmp_path).analyze()["layerwise"] for batch in (image, other)]
    for name, one in found["layerwise"].items():
        assert one["max_error"] == max(each[name]["max_error"] for each in alone)
        assert (
            min(each[name]["cosine"] for each in alone) <= one["cosine"] <= max(each[name]["cosine"] for each in alone)
        )


def test_the_title_is_the_class_of_the_users_model(image: Tensor, tmp_path: Path, written: list[Any]) -> None:
    amct.QuantAnalyzer(quantize(Residual().eval(), tmp_path, [(image,)]), image, tmp_path).analyze()
    assert written[0].model == "Residual"
