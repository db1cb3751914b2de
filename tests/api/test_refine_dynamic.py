"""refine on the dynamic path: what the user's forward really does, and the files of its calls."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.layers.layer_container import layers_of
from tests.support import dynamic_path
from tests.support.exact_dynamic import oracle
from tests.support.exact_pair import assert_equal, run_torch
from tests.support.fx_path import run_fake


def data(seed, count=16, shape=(4, 8, 8)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


class Rowwise(nn.Module):
    """A forward that no graph holds: in-place changes, a handler of errors, a branch that depends on the data."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.rows, self.rare = nn.Linear(6, 8), nn.Linear(8, 8)
        self.count = 0

    def forward(self, x, gain=1.5):
        x.mul_(gain)
        try:
            x = self.norm(self.conv(x)).relu_()
        except Exception:
            return x
        x = self.rows(x.flatten(2).transpose(1, 2))  # rank 3: MatMul and Add in the files
        return x if x.mean() < 1e6 else self.rare(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Rowwise().eval()


def test_a_forward_that_is_code_is_refined_and_saved_exactly(net, tmp_path):
    batches = [(data(seed), {"gain": 1.5}) for seed in (1, 2)]
    kept = copy.deepcopy(batches)
    files = dynamic_path.make_config(net, tmp_path, data(1), batch_num=2)
    model = dynamic_path.quantize(net, files, data(1))
    for x, _ in copy.deepcopy(batches):
        dynamic_path.run(model, x)
    before = run_fake(model, data(3))
    result = amct.refine(model, batches, progress=False)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, kept, strict=True))
    assert [one.name for one in result.layers if one.methods] == ["conv", "rows"]
    after, wanted = run_fake(model, data(3)), dynamic_path.run(net, data(3))
    assert (after - wanted).square().sum() < (before - wanted).square().sum()
    files.save(model)
    trace, deployed = run_torch(model, [data(3)]), oracle(files, data(3))  # run_torch changes its input
    assert_equal(layers_of(model), trace, deployed)


class Uses(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.rare = nn.Conv2d(4, 4, 1)

    def forward(self, x, also_rare=False):
        x = torch.relu(self.twice(torch.relu(self.twice(self.first(x)))))
        return self.rare(x) if also_rare else x


def test_a_module_called_twice_and_one_never_called_say_so(tmp_path):
    torch.manual_seed(2)
    net = Uses().eval()
    files = dynamic_path.make_config(net, tmp_path, (data(1), True))
    model = dynamic_path.quantize(net, files, (data(1), True))
    dynamic_path.run(model, data(1), True)
    told = str(amct.refine(model, [data(1)], progress=False))
    assert "first: compensated_rounding, bias_correction" in told
    assert "twice: unchanged; no compensated_rounding: its module is called several times in a forward" in told
    assert "rare: unchanged; no compensated_rounding: the data does not reach it" in told


def test_copies_are_refined_into_files_of_their_own_call(net, tmp_path):
    files = dynamic_path.make_config(net, tmp_path, data(1))
    model = dynamic_path.quantize(net, files, data(1))
    dynamic_path.run(model, data(1))
    loaded = pickle.loads(pickle.dumps(model))
    amct.refine(loaded, [data(1)], progress=False)
    files.save()
    assert_equal(layers_of(loaded), run_torch(loaded, [data(3)]), oracle(files, data(3)))


def test_training_starts_from_refined_weights(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)).eval()
    files = dynamic_path.Files(tmp_path)
    amct.create_quant_retrain_config(files.config, net, data(1))
    model = amct.create_quant_retrain_model(files.config, net, files.record_file, data(1))
    with pytest.raises(amct.CalibrationError, match="Run at least batch_num forwards first"):
        amct.refine(model, [data(1)])
    dynamic_path.run(model, data(1))
    result = amct.refine(model, [data(1)], progress=False)
    assert all(one.methods for one in result.layers)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    (model.train()(data(2)) - net(data(2))).square().mean().backward()
    optimizer.step()
    dynamic_path.run(model.eval(), data(1))
    prefix = tmp_path / "out" / "model"
    amct.save_quant_retrain_model(files.config, model, files.record_file, str(prefix), data(1))
    assert_equal(layers_of(model), run_torch(model, [data(3)]), oracle(files, data(3)))


def test_updated_batch_norms_and_refined_weights_reach_the_files(net, tmp_path):
    files = dynamic_path.make_config(net, tmp_path, data(1))
    files.change(update_bn=True)
    model = dynamic_path.quantize(net, files, data(1))
    amct.update_bn_status(model, True)
    dynamic_path.run(model, data(2))
    amct.update_bn_status(model, False)
    dynamic_path.run(model, data(1))
    assert amct.refine(model, [data(1)], progress=False).layers[0].methods
    files.save(model)
    assert_equal(layers_of(model), run_torch(model, [data(3)]), oracle(files, data(3)))


def test_a_cfg_that_asks_has_the_calibration_refine(net, tmp_path):
    batches = [data(seed) for seed in (1, 2, 3)]
    models = []
    for text in ("batch_num: 3  refine { seed: 2  pictures: 20 }", "batch_num: 3"):
        (tmp_path / "simple.cfg").write_text(text)
        files = dynamic_path.make_config(net, tmp_path, data(1), config_defination=tmp_path / "simple.cfg")
        models.append(dynamic_path.quantize(net, files, data(1)))
        results = [dynamic_path.run(models[-1], batch.clone()) for batch in batches]
    asked, explicit = models
    assert torch.equal(results[-1], dynamic_path.run(net, batches[-1].clone()))  # float, as without the section
    amct.refine(explicit, batches[:2], seed=2, progress=False)  # the third has more than the wanted pictures
    assert torch.equal(run_fake(asked, data(4)), run_fake(explicit, data(4)))
