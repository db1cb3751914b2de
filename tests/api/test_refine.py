"""refine on both paths: closer to the user's float model; exactness, saving, restoring and resuming still hold."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.batches import batch_store
from hotwheels.amct_pytorch.backends.layers.layer_container import layers_of
from hotwheels.amct_pytorch.core.refine import soft_rounding
from tests.support import dynamic_path
from tests.support.exact_pair import assert_equal, run_oracle, run_torch
from tests.support.fx_path import quantize, run_fake, run_onnx
from tests.support.nets import shake_batch_norms

PATHS = ("fx", "dynamic")
WEIGHTS = {  # the section of a layer on each path
    "8 bits": {"fx": None, "dynamic": None},
    "4 bits": {
        "fx": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"num_bits": 4, "observer": "ArqObserver"}},
        "dynamic": {"wts_algo": "arq_quantize", "num_bits": 4},
    },
    "codebook": {
        "fx": {"quantizer": "SnqWeightFakeQuantize", "quantizer_args": {"num_bits": 4, "observer": "SnqObserver"}},
        "dynamic": {"wts_algo": "snq_quantize", "num_bits": 4},
    },
}
WEIGHTED = ("stem", "depthwise", "point", "up", "head")


class Net(nn.Module):
    """Every kind of weighted layer: with a BatchNorm, grouped, transposed, without bias, Linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 24, 1, bias=False)
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.norm2(self.depthwise(x)))
        x = torch.relu(self.up(self.point(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net().eval()
    shake_batch_norms(model)
    return model


def pictures(seed, count=24):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (16, 16), mode="bilinear")


def calibrated(net, folder, weights="8 bits", layers=WEIGHTED, path="fx"):
    section = WEIGHTS[weights][path] if isinstance(weights, str) else weights
    changes = {} if section is None else {name: {"weight_quant_params": section} for name in layers}
    if path == "fx":
        return quantize(net, folder, [(pictures(1),)], changes)
    files = dynamic_path.make_config(net, folder, pictures(1))
    if changes:
        files.change(**{name: files.document[name] | one for name, one in changes.items()})
    model = dynamic_path.quantize(net, files, pictures(1))
    dynamic_path.run(model, pictures(1))
    return model


def saved_prefix(model, folder, path):
    """Saves the model, as a user does after refining."""
    if path == "fx":
        amct.save_quant_model_fx(model, folder / "out" / "model", pictures(2))
    else:
        dynamic_path.Files(folder).save()
    return folder / "out" / "model"


def error(model, net):
    x = pictures(2)
    with torch.no_grad():
        wanted = net(x)
    return float((run_fake(model, x) - wanted).square().sum() / wanted.square().sum())


both_paths = pytest.mark.parametrize("path", PATHS)
every_grid = pytest.mark.parametrize("weights", WEIGHTS)


class Sequences(nn.Module):
    """Convolutions of sequences, or the same ones of images of height 1."""

    def __init__(self, axes):
        super().__init__()
        kind, up = (nn.Conv1d, nn.ConvTranspose1d) if axes == 1 else (nn.Conv2d, nn.ConvTranspose2d)
        self.first, self.middle = (
            kind(1, 16, self.sized(axes, 9), self.sized(axes, 4)),
            kind(16, 16, self.sized(axes, 3)),
        )
        self.last = up(16, 16, self.sized(axes, 2), self.sized(axes, 2))

    @staticmethod
    def sized(axes, size):
        return (1, size)[-axes:]

    def forward(self, x):
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


@both_paths
@pytest.mark.parametrize("count", [1, 4, 16])
def test_biases_of_sequences_are_corrected_as_those_of_images(tmp_path, count, path):
    """16 is the number of channels too."""
    sequences, images = Sequences(1).eval(), Sequences(2).eval()
    images.load_state_dict({name: x.unsqueeze(2) if x.dim() == 3 else x for name, x in sequences.state_dict().items()})
    x = torch.rand(count, 1, 128)
    refined = []
    for model, data in ((sequences, x), (images, x.unsqueeze(2))):
        folder = tmp_path / str(data.dim())
        if path == "fx":
            quantized = quantize(model, folder, [(data,)], {})
        else:
            quantized = dynamic_path.quantize(model, dynamic_path.make_config(model, folder, data), data)
            dynamic_path.run(quantized, data)
        amct.refine(quantized, [data], methods=["bias_correction"], progress=False)
        refined.append(quantized)
    for layer in ("first", "middle", "last"):
        before = sequences.get_submodule(layer).bias
        found, wanted = (one.get_submodule(layer).bias for one in refined)
        assert not torch.equal(wanted, before)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@both_paths
@every_grid
def test_new_pictures_come_nearer_to_the_float_model(net, tmp_path, weights, path):
    model = calibrated(net, tmp_path, weights, path=path)
    before = error(model, net)
    result = amct.refine(model, [pictures(1)], progress=False)
    assert error(model, net) < 0.6 * before
    assert [one.name for one in result.layers] == list(WEIGHTED)
    assert "point: compensated_rounding; no bias_correction: the layer has no bias" in str(result)


@both_paths
def test_the_end_of_calibration_says_what_refining_gains(tmp_path, log_lines, path):
    net = nn.Sequential(nn.Linear(3, 4)).eval()
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))  # two rows: as many as the estimate reads
    if path == "fx":
        quantize(net, tmp_path, [(x,)])
    else:
        model = dynamic_path.quantize(net, dynamic_path.make_config(net, tmp_path, x), x)
        dynamic_path.run(model, x)
    weight = net[0].weight.detach()
    scale = weight.abs().max() / 127
    error = x @ (torch.round(weight / scale) * scale - weight).T
    rest = error.square().mean() - error.mean(0).square().mean()
    (line,) = [one for one in log_lines.of("INFO") if "Calibrated: all" in one]
    assert f"takes about {10 * torch.log10(error.square().mean() / rest):.1f} dB off" in line


@both_paths
@every_grid
def test_real_quant_is_what_the_files_compute(net, tmp_path, weights, path):
    model = calibrated(net, tmp_path, weights, path=path)
    amct.refine(model, [pictures(1)], progress=False)
    prefix = saved_prefix(model, tmp_path, path)
    layers = layers_of(model)
    assert_equal(layers, run_torch(model, [pictures(2)]), run_oracle(prefix, [pictures(2)]))
    wanted = run_fake(model, pictures(2))
    # float32 sums of another order; a tie may move one input by one step of its grid
    (found,) = run_onnx(Path(f"{prefix}_fake_quant_model.onnx"), pictures(2))
    assert (torch.from_numpy(found) - wanted).abs().max() < 0.02 * wanted.abs().max()


@every_grid
def test_both_paths_find_the_same_weights(net, tmp_path, weights):
    models = [calibrated(net, tmp_path, weights, path=path) for path in PATHS]
    for one in models:
        amct.refine(one, [(part,) for part in pictures(1).split(8)], progress=False)
    states = [one.state_dict() for one in models]
    names = [name for name in net.state_dict() if not name.startswith("head")]  # mean in front is a layer of FX only
    assert [name for name in names if not torch.equal(*(state[name] for state in states))] == []


@every_grid
def test_the_result_is_part_of_the_state_dict(net, tmp_path, weights):
    model = calibrated(net, tmp_path, weights)
    amct.refine(model, [pictures(1)], progress=False)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", net, tmp_path / "net.pt")
    assert torch.equal(run_fake(restored, pictures(2)), run_fake(model, pictures(2)))


def asked(net, folder, section):
    """A model calibrated in the five calls, in batches of 8, with this text in the simple configuration."""
    (folder / "simple.yaml").write_text(section)
    amct.create_quant_config_fx(folder / "config.json", net, folder / "simple.yaml")
    model = amct.create_quant_model_fx(folder / "config.json", net)
    amct.enable_quantization(model, calibration=True)
    with torch.no_grad():
        for batch in pictures(1).split(8):
            model(batch)
    return model


@pytest.mark.parametrize("count", (16, 20, 24, 32))
def test_a_configuration_that_asks_has_the_five_calls_refine(net, tmp_path, count):
    model = asked(net, tmp_path, f"refine: {{seed: 2, pictures: {count}}}")
    explicit = asked(net, tmp_path, "")
    seen = pictures(1).split(8)[: -(-count // 8)]
    amct.refine(explicit, [(one,) for one in seen], seed=2, progress=False)
    assert torch.equal(run_fake(model, pictures(2)), run_fake(explicit, pictures(2)))
    assert not model.kept_batches


def test_the_float_state_is_refined_only_when_the_model_is_quantized(net, tmp_path):
    model = asked(net, tmp_path, "refine: true")
    amct.enable_quantization(model)
    with torch.no_grad():
        assert torch.allclose(model(pictures(2)), net(pictures(2)), atol=1e-5)
    amct.enable_quantization(model, calibration=True)
    for one in (model, copy.deepcopy(model)):
        amct.save_quant_model_fx(one, tmp_path / "net", pictures(2))
        assert not one.kept_batches
    (found,) = run_onnx(tmp_path / "net_float_model.onnx", pictures(2))
    assert not torch.allclose(torch.from_numpy(found), net(pictures(2)), atol=1e-5)


def test_without_the_section_nothing_is_kept(net, tmp_path):
    assert not asked(net, tmp_path, "").kept_batches


@pytest.mark.parametrize("count", (1, 3, 4))
def test_few_pictures(net, tmp_path, count):
    model = calibrated(net, tmp_path)
    result = amct.refine(model, [(pictures(1, count),)], progress=False)
    reasons = {reason for one in result.layers for method, reason in one.skipped if method == "compensated_rounding"}
    assert ("fewer than 4 pictures: none can be held back to judge" in reasons) == (count < 4)
    assert "bias_correction" in result.layers[0].methods


@both_paths
def test_the_user_s_model_and_the_mode_stay(net, tmp_path, path):
    before = copy.deepcopy(net.state_dict())
    model = calibrated(net, tmp_path, path=path)
    amct.enable_quantization(model)
    modes = {name: layer.mode for name, layer in layers_of(model).items()}
    model.train()
    amct.refine(model, [pictures(1)], progress=False)
    assert {name: layer.mode for name, layer in layers_of(model).items()} == modes
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@both_paths
def test_a_run_is_repeatable_and_goes_on_after_an_interruption(net, tmp_path, monkeypatch, path):
    whole, broken = (calibrated(net, tmp_path, "codebook", path=path) for _ in range(2))
    batches = [(part,) for part in pictures(1).split(8)]
    amct.refine(whole, batches, progress=False)
    add_to_bias, calls = type(layers_of(whole)["up"].weighted.op).add_to_bias, []

    def stops(self, change):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add_to_bias(self, change)

    with monkeypatch.context() as patch:
        patch.setattr(type(layers_of(whole)["up"].weighted.op), "add_to_bias", stops)
        with pytest.raises(KeyboardInterrupt):
            amct.refine(broken, batches, progress=False, resume_dir=tmp_path / "part")
    fresh = calibrated(net, tmp_path, "codebook", path=path)
    amct.refine(fresh, batches, progress=False, resume_dir=tmp_path / "part")
    assert torch.equal(run_fake(fresh, pictures(2)), run_fake(whole, pictures(2)))
    other = calibrated(net, tmp_path, "codebook", path=path)
    with pytest.raises(amct.ConfigError, match="other methods or another seed"):
        amct.refine(other, batches, seed=1, progress=False, resume_dir=tmp_path / "part")


LEARNING = ("compensated_rounding", "learned_rounding", "bias_correction")


@both_paths
@every_grid
def test_learned_rounding_goes_on_from_compensated_rounding(net, tmp_path, monkeypatch, weights, path):
    monkeypatch.setattr(soft_rounding, "STEPS", 60)
    model, batches = calibrated(net, tmp_path, weights, path=path), [(part,) for part in pictures(1).split(8)]
    result = amct.refine(model, batches, LEARNING, progress=False)
    assert any("learned_rounding" in one.methods for one in result.layers)
    prefix = saved_prefix(model, tmp_path, path)
    assert_equal(layers_of(model), run_torch(model, [pictures(2)]), run_oracle(prefix, [pictures(2)]))
    for one in layers_of(model).values():
        if one.weighted is not None:
            folded, bias = one.weighted.op.folded()
            rounded = one.weighted.quantizer.fake_quantize(folded, one.weighted.params(folded, bias))
            torch.testing.assert_close(rounded, folded, atol=1e-5, rtol=0)  # on the grid that the weight now gives


def test_learned_rounding_is_repeatable_resumable_and_for_the_layers_named(net, tmp_path, monkeypatch):
    monkeypatch.setattr(soft_rounding, "STEPS", 30)
    first, second, third = (calibrated(net, tmp_path, "4 bits") for _ in range(3))
    methods = {"compensated_rounding": None, "learned_rounding": ["point", "Linear"]}
    batches = [(part,) for part in pictures(1).split(8)]
    result = amct.refine(first, batches, methods, progress=False, resume_dir=tmp_path / "part")
    assert {one.name for one in result.layers if "learned_rounding" in one.methods} <= {"point", "head"}
    amct.refine(second, batches, methods, progress=False)
    amct.refine(third, batches, methods, progress=False, resume_dir=tmp_path / "part")
    outputs = [run_fake(one, pictures(2)) for one in (first, second, third)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_values_on_the_disk_are_values_in_memory(net, tmp_path, monkeypatch):
    models = [calibrated(net, tmp_path) for _ in range(2)]
    batches = pictures(1).split(8)
    amct.refine(models[0], batches, progress=False)
    monkeypatch.setattr(batch_store, "BYTES_IN_MEMORY", 100_000)
    amct.refine(models[1], batches, progress=False)
    assert torch.equal(run_fake(models[0], pictures(2)), run_fake(models[1], pictures(2)))


def test_methods_are_for_the_layers_and_types_they_name(net, tmp_path):
    model = calibrated(net, tmp_path)
    result = amct.refine(
        model, [pictures(1)], {"bias_correction": ["Linear"], "compensated_rounding": ["stem"]}, progress=False
    )
    assert {one.name: one.methods for one in result.layers if one.methods} == {
        "stem": ("compensated_rounding",),
        "head": ("bias_correction",),
    }


def test_a_name_is_a_list_of_one(net, tmp_path):
    results = [
        str(amct.refine(calibrated(net, tmp_path), [pictures(1)], methods, progress=False))
        for methods in ("bias_correction", ["bias_correction"], {"bias_correction": "Conv2d"})
    ]
    assert results[0] == results[1]
    assert "stem: bias_correction" in results[2]
    assert "head: unchanged" in results[2]


def test_a_shared_weight_is_left_alone(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    model = quantize(Twice().eval(), tmp_path, [(pictures(1),)])
    result = amct.refine(model, [pictures(1)], progress=False)
    assert not any(one.methods for one in result.layers)
    assert "shared with layer 'conv_1'" in str(result)


def test_what_cannot_be_refined_says_so(net, tmp_path):
    model = calibrated(net, tmp_path)
    for methods in (["gptq"], "gptq"):
        with pytest.raises(amct.ConfigError, match="unknown method 'gptq'"):
            amct.refine(model, [pictures(1)], methods)
    for methods in (None, 5):
        with pytest.raises(TypeError, match="argument 'methods' must be a name, a list of names or a dict"):
            amct.refine(model, [pictures(1)], methods)
    with pytest.raises(TypeError, match=r"methods\['bias_correction'\] must be a layer"):
        amct.refine(model, [pictures(1)], {"bias_correction": 5})
    with pytest.raises(amct.CalibrationError, match="has no batch"):
        amct.refine(model, [])
    fresh = amct.create_quant_model_fx(tmp_path / "config.json", net)
    with pytest.raises(amct.CalibrationError, match="Calibration is not complete"):
        amct.refine(fresh, [pictures(1)])
    with pytest.raises(amct.UnsupportedModelError):
        amct.refine(net, [pictures(1)])


def test_mirrored_codebooks_are_left_to_training(net, tmp_path):
    weights = {"quantizer": "LnqFakeQuantize", "quantizer_args": {"num_bits": 4, "symmetric": True}}
    model = calibrated(net, tmp_path, weights, ["stem"])
    stem = amct.refine(model, [pictures(1)], progress=False).layers[0]
    assert stem.methods == ("bias_correction",)
    assert stem.skipped == (("compensated_rounding", "the grid of LnqFakeQuantize changes with every weight"),)
