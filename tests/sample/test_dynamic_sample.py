"""The dynamic sample in its shortest form: its network, and both configurations from options to files."""

import collections
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

from sample.common import digits
from sample.resnet50.dynamic import resnet50_calibration as program
from sample.resnet50.dynamic.resnet50_model import resnet as dynamic
from sample.resnet50.src import resnet as plain

CONFIGS = Path(program.__file__).parent / "cali_conf"
SHORT = ["--eval_iter", "1", "--batch_size", "4"]
BLOCKS = (1, 1, 1, 1)


def plain_network() -> nn.Module:
    """The FX sample's network with one block per stage, untrained; the bn3, which begin with zeros, take part."""
    torch.manual_seed(0)
    model = plain.ResNet(BLOCKS, digits.NUM_CLASSES, width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample as it is, but with the small network, and with its script in an empty folder."""
    monkeypatch.setattr(program, "trained", lambda name: plain_network())
    monkeypatch.setattr(program, "resnet50", lambda classes, width: dynamic.ResNet(BLOCKS, classes, width))
    script = tmp_path / "resnet50_calibration.py"
    monkeypatch.setattr(program, "SAMPLE", dataclasses.replace(program.SAMPLE, script=script))


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["resnet50_calibration.py", *SHORT, *map(str, options)])
    program.main(program.SAMPLE)


def test_network_takes_the_checkpoint_of_the_fx_sample_and_computes_the_same():
    checkpoint = plain.resnet50(digits.NUM_CLASSES, width=4).state_dict()
    loaded = dynamic.resnet50(digits.NUM_CLASSES, width=4)
    assert list(loaded.state_dict()) == list(checkpoint)
    loaded.load_state_dict(checkpoint)

    expected, model = plain_network(), dynamic.ResNet(BLOCKS, digits.NUM_CLASSES, width=4).eval()
    model.load_state_dict(expected.state_dict())
    x = torch.randn(2, 3, digits.IMAGE_SIZE, digits.IMAGE_SIZE)
    assert torch.equal(model(x), expected(x))


def test_each_module_of_the_network_is_called_once():
    model = dynamic.resnet50(digits.NUM_CLASSES, width=4).eval()
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    calls: collections.Counter[str] = collections.Counter()
    for name, module in leaves.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    model(torch.randn(1, 3, digits.IMAGE_SIZE, digits.IMAGE_SIZE))
    assert calls == dict.fromkeys(leaves, 1)


@dataclasses.dataclass(frozen=True)
class Case:
    config_def: str
    weights: str
    num_bits: int
    updates_batch_norms: bool


CASES = [
    Case("quant.cfg", "arq_quantize", 8, False),
    Case("snq.cfg", "snq_quantize", 4, True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.config_def)
@pytest.mark.usefixtures("short")
def test_sample_prints_its_accuracies_and_leaves_its_files(case: Case, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--config_def", CONFIGS / case.config_def)

    name = case.config_def.removesuffix(".cfg")
    temporary, results = tmp_path / "tmp" / name, tmp_path / "checkpoints" / name
    config = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
    assert config["batch_num"] == 2
    assert config["update_bn"] is case.updates_batch_norms
    weight = config["layer1.0.conv2"]["weight_quant_params"]
    assert (weight["wts_algo"], weight["num_bits"]) == (case.weights, case.num_bits)
    assert config["fc"]["weight_quant_params"]["wts_algo"] == case.weights
    added = config["layer1.0.eltwise_add"]["activation_quant_params"]
    assert [one["num_bits"] for one in added] == [8, 8]

    update = {"scale_offset_record_update.txt"} if case.updates_batch_norms else set()
    made = {"config.json", "modified_model.onnx", "scale_offset_record.txt"} | update
    assert {file.name for file in temporary.iterdir()} == made
    endings = (
        "fake_quant_model.onnx",
        "deploy_model.onnx",
        "quant_param_record.txt",
        "quant_param_record.bin",
        "manifest.json",
    )
    assert {file.name for file in results.iterdir()} == {f"resnet50_calibration_{ending}" for ending in endings}

    printed = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in printed if line.endswith("s") and "%" in line]
    assert rows == ["float", "fake_quant", "onnxruntime"]
    assert printed[-1].startswith("==> AMCT run resnet50_calibration.py in ")


@pytest.mark.usefixtures("short")
def test_batch_norms_learn_only_where_the_configuration_says_so(tmp_path):
    model = program.model_of_digits().eval()
    batches = program.image_loader(program.SAMPLE.eval_set, digits.IMAGE_SIZE, 4)
    shorter = tmp_path / "snq.cfg"
    shorter.write_text((CONFIGS / "snq.cfg").read_text().replace("iterations : 30", "iterations : 2"))
    counts = {}
    for config_def in (CONFIGS / "quant.cfg", shorter):
        folder = tmp_path / config_def.stem
        quantized = program.quantize(model, folder, folder / "net", config_def, batches, torch.device("cpu"))
        state = quantized.state_dict()
        counts[config_def.name] = {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")}
    assert counts == {"quant.cfg": {0}, "snq.cfg": {2}}
