"""refine as the start of training: LNQ keeps the codebook and the scale that refine found, on both paths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.layers.layer_container import layers_of
from tests.support.dynamic_path import Files, run
from tests.support.exact_pair import assert_equal, run_oracle, run_torch
from tests.support.fx_path import quantize

LNQ = {"quantizer": "LnqFakeQuantize", "quantizer_args": {"cluster_freq": 400}}
CFG = """
batch_num: 1
retrain_data_quant_config: { ulq_quantize: { num_bits: 8 } }
retrain_weight_quant_config: { lnq_quantize: { cluster_freq: 400 } }
"""
LAYERS = ("stem", "depthwise", "head")
METHODS = {
    "default": ("compensated_rounding", "bias_correction"),
    "learned": ("compensated_rounding", "learned_rounding", "bias_correction"),
}


class Net(nn.Module):
    """A BatchNorm whose factors have both signs, groups, a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.depthwise(x)).mean((2, 3)))


@pytest.fixture(params=["fx", "dynamic"])
def path(request):
    return request.param


def pictures(seed, count=24):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (12, 12), mode="bilinear")


def float_net():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.norm.weight.uniform_(-1.5, 1.5)
        net.norm.momentum = 1.0
        net.train()(pictures(0))
    return net.eval()


def calibrated(net, folder, path):
    """Returns a model with LNQ weights in fake_quant, in eval mode, and a function that saves it."""
    prefix = folder / "out" / "model"
    if path == "fx":
        model = quantize(net, folder, [(pictures(1),)], {name: {"weight_quant_params": LNQ} for name in LAYERS})
        amct.enable_quantization(model, fake_quant=True)
        return model, lambda: amct.save_quant_model_fx(model, prefix, pictures(2))
    files, definition = Files(folder), folder / "retrain.cfg"
    definition.write_text(CFG)
    amct.create_quant_retrain_config(files.config, net, pictures(1), definition)
    model = amct.create_quant_retrain_model(files.config, net, files.record_file, pictures(1)).eval()
    run(model, pictures(1))
    return model, lambda: amct.save_quant_retrain_model(files.config, model, files.record_file, prefix, pictures(2))


def refined(net, folder, path, methods=METHODS["default"]):
    model, save = calibrated(net, folder, path)
    result = amct.refine(model, [pictures(1)], methods, progress=False)
    assert [one.methods for one in result.layers] == [tuple(methods)] * len(LAYERS), str(result)
    return model, save


def weights_of(model):
    return [one.weighted for one in layers_of(model).values() if one.weighted is not None]


def error(model, net, x):
    with torch.no_grad():
        wanted = net(x)
        return float((model(x) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_a_refined_codebook_is_that_of_the_quantizer(tmp_path, path, methods):
    net = float_net()
    model, _ = refined(net, tmp_path, path, methods)
    for weight in weights_of(model):
        folded, bias = weight.op.folded()
        params = weight.params(folded.detach(), bias)
        rounded = weight.quantizer.fake_quantize(folded.detach(), params)
        assert not params.scale.dim()
        assert (rounded - folded).abs().max() < 1e-5 * folded.abs().max()


def test_new_pictures_come_nearer_to_the_float_model(tmp_path, path):
    net = float_net()
    model, _ = calibrated(net, tmp_path, path)
    before = error(model, net, pictures(2))
    amct.refine(model, [pictures(1)], progress=False)
    assert error(model, net, pictures(2)) < 0.3 * before


def test_training_goes_on_from_the_refined_weights(tmp_path, path):
    net = float_net()
    model, _ = refined(net, tmp_path, path)
    start = error(model, net, pictures(2))
    kept = [weight.quantizer.centroids.clone() for weight in weights_of(model)]
    model.train()
    amct.freeze_batch_norm(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(pictures(1)), net(pictures(1))).backward()
        optimizer.step()
    assert error(model.eval(), net, pictures(2)) < 1.2 * start
    for weight, centroids in zip(weights_of(model), kept, strict=True):
        assert torch.equal(weight.quantizer.centroids, centroids)
        assert weight.op.stored_weight.grad.abs().amax() > 0


def test_all_weights_get_their_gradient(tmp_path, path):
    model, _ = refined(float_net(), tmp_path, path)
    for weight in weights_of(model):
        folded = weight.op.folded()[0].detach().requires_grad_()
        weight.quantizer.fake_quantize(folded).sum().backward()
        assert bool((folded.grad == 1).all())
        assert float(weight.quantizer.clip_max.grad) == 0


def test_a_refined_model_is_restored(tmp_path, path):
    net = float_net()
    model, _ = refined(net, tmp_path, path)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    if path == "fx":
        restored = amct.restore_quant_model_fx(tmp_path / "config.json", net, tmp_path / "net.pt")
        amct.enable_quantization(restored, fake_quant=True)
    else:
        files = Files(tmp_path)
        restored = amct.restore_quant_retrain_model(
            files.config, net, tmp_path / "other.txt", pictures(1), tmp_path / "net.pt"
        )
    assert torch.equal(run(restored.eval(), pictures(2)), run(model, pictures(2)))


def test_the_files_compute_real_quant(tmp_path, path):
    model, save = refined(float_net(), tmp_path, path, METHODS["learned"])
    run(model, pictures(1))  # in eval mode: writes the record of the dynamic path
    save()
    found = run_torch(model, [pictures(2)])
    assert_equal(layers_of(model), found, run_oracle(tmp_path / "out" / "model", [pictures(2)]))
