"""The retraining samples in their shortest form: files, continuing from a checkpoint, dumps, data sets."""

import csv
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn")

from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from sample.common import digits, dumping, retrain_paths, retraining
from sample.common.calibration import CalibrationSample
from sample.common.datasets import ImageFolders, make_loaders
from sample.common.retrain_options import parse_options
from sample.common.zoo import RECIPES
from sample.mobilenet_v2.src.mobilenet import mobilenet_v2
from sample.resnet50.dynamic import resnet50_retrain
from sample.resnet50.dynamic.resnet50_model import resnet as dynamic

SHORT = ["--epochs", "1", "--train_iter", "2", "--eval_iter", "1", "--batch_size", "4", "--print_freq", "1"]
IMAGES = Path(digits.__file__).parents[1] / "resnet50" / "calibration" / "images" / "image_label.txt"


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrationSample:
    """A MobileNetV2 sample whose script stands in an empty folder; its network is not trained."""
    for module in (retraining, retrain_paths):
        monkeypatch.setattr(module, "trained", lambda name: RECIPES[name].build().eval())
    torch.manual_seed(0)
    return CalibrationSample(
        network="mobilenet_v2",
        build=mobilenet_v2,
        classifier="classifier.1.weight",
        script=tmp_path / "mobilenet_v2_retrain.py",
        eval_set=IMAGES,
    )


def run(monkeypatch: pytest.MonkeyPatch, program, sample: CalibrationSample, *options: object, **settings) -> None:
    monkeypatch.setattr(sys, "argv", [sample.script.name, *map(str, options)])
    program(sample, **settings)


def test_training_continuing_and_dumping_leave_the_files_of_the_manual(sample, tmp_path, monkeypatch, capsys):
    run(monkeypatch, retraining.main, sample, *SHORT)
    results, temporary = tmp_path / "checkpoints" / "retrain", tmp_path / "tmp" / "retrain"
    pictures = {f"{graph}.{kind}" for graph in ("float", "quant") for kind in ("svg", "dot")}
    assert {file.name for file in temporary.iterdir()} == {"config.json", "results.csv", *pictures}
    assert {file.name for file in results.iterdir()} >= {
        "mobilenet_v2_retrain_best.pt",
        "mobilenet_v2_retrain_last.pt",
        "mobilenet_v2_retrain_last_deploy_model.onnx",
        "mobilenet_v2_epoch_0_quant_param_record.txt",
    }
    assert "==> AMCT run mobilenet_v2_retrain.py in " in capsys.readouterr().out

    last = results / "mobilenet_v2_retrain_last.pt"
    before = torch.load(last, weights_only=True)["quant_model_weights"]
    given = ["--config_file", temporary / "config.json", "--pt", last]
    run(monkeypatch, retraining.main, sample, *SHORT, *given, from_checkpoint=True)
    rows = list(csv.DictReader((temporary / "results.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"] and 0 <= float(rows[1]["real_quant_top1"]) <= 1
    after = torch.load(last, weights_only=True)["quant_model_weights"]
    statistics = [name for name in before if name.endswith("running_mean")]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)  # frozen by then
    assert any(not torch.equal(before[name], after[name]) for name in before)

    folder = tmp_path / "dump"
    run(monkeypatch, dumping.main, sample, *given, "--state_dict_name", "quant_model_weights", "--dump_dir", folder)
    assert any(file.name.startswith("features_0_0_output0") for file in folder.iterdir())


def test_dynamic_path_leaves_its_files_and_goes_on_from_a_checkpoint(tmp_path, monkeypatch, capsys):
    blocks = (1, 1, 1, 1)
    monkeypatch.setattr(retrain_paths, "trained", lambda name: dynamic.ResNet(blocks, digits.NUM_CLASSES, 4))
    sample = dataclasses.replace(resnet50_retrain.SAMPLE, script=tmp_path / "resnet50_retrain.py")
    path = retrain_paths.DynamicPath(lambda state: dynamic.ResNet(blocks, digits.NUM_CLASSES, 4))
    run(monkeypatch, retraining.main, sample, *SHORT, path=path)
    results, temporary = tmp_path / "checkpoints" / "retrain", tmp_path / "tmp" / "retrain"
    assert {file.name for file in temporary.iterdir()} == {"config.json", "scale_offset_record.txt", "results.csv"}
    endings = (
        "fake_quant_model.onnx",
        "deploy_model.onnx",
        "quant_param_record.txt",
        "quant_param_record.bin",
        "manifest.json",
    )
    assert {file.name for file in results.iterdir()} == {
        "resnet50_retrain_best.pt",
        "resnet50_retrain_last.pt",
        "resnet50_epoch_0_quant_param_record.txt",
        *(f"resnet50_retrain_last_{ending}" for ending in endings),
    }
    config = read_json(temporary / "config.json")
    assert config["conv1"]["retrain_weight_config"]["algo"] == "arq_retrain"
    assert config["layer1.0.conv2"]["retrain_weight_config"]["algo"] == "lnq_retrain"

    given = ["--config_file", temporary / "config.json", "--pt", results / "resnet50_retrain_last.pt"]
    run(monkeypatch, retraining.main, sample, *SHORT, *given, from_checkpoint=True, path=path)
    rows = list(csv.DictReader((temporary / "results.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"] and 0 <= float(rows[1]["fake_quant_top1"]) <= 1
    assert (results / "resnet50_epoch_1_quant_param_record.txt").exists()


@dataclasses.dataclass(frozen=True)
class Mistake:
    name: str
    options: tuple[str, ...]
    message: str


MISTAKES = [
    Mistake("one data set", ("--train_set", "."), "--train_set and --eval_set belong together"),
    Mistake("no weights", ("--train_set", ".", "--eval_set", "."), "--train_set needs torchvision's weights"),
    Mistake("no such file", ("--train_set", "nowhere"), "--train_set: no such file or folder: nowhere"),
    Mistake("no step", ("--train_iter", "0"), "must be at least 1, got 0"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_wrong_options_are_explained(mistake, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retrain.py", *mistake.options])
    with pytest.raises(SystemExit):
        parse_options("resnet50", from_checkpoint=False)
    assert mistake.message in capsys.readouterr().err


def test_own_data_has_the_defaults_of_the_manual(monkeypatch, tmp_path):
    (tmp_path / "weights.pt").touch()
    options = ["--train_set", str(tmp_path), "--eval_set", str(tmp_path), "--weights", str(tmp_path / "weights.pt")]
    monkeypatch.setattr(sys, "argv", ["retrain.py", *options])
    args = parse_options("resnet50", from_checkpoint=False)
    assert (args.epochs, args.learning_rate, args.batch_size, args.num_parallel_reads) == (10, 1e-5, 16, 4)
    assert (args.train_iter, args.eval_iter, args.print_freq) == (50, 50, 10)
    assert (args.dist_url, args.distributed, args.benchmark) == ("tcp://127.0.0.1:50011", False, False)


def test_folders_are_classes_in_order(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        for index in range(2):
            file = tmp_path / name / f"{index}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 30), (100 * label, 0, 0)).save(file)
    torch.manual_seed(0)
    for augments in (False, True):
        images = ImageFolders(tmp_path, 16, augments)
        assert [label for _, label in images] == [0, 0, 1, 1]
        assert all(image.shape == (3, 16, 16) for image, _ in images)
    loaders = make_loaders(tmp_path, tmp_path, 16, 2, workers=0, distributed=False)
    assert len(loaders.train) == 2 and next(iter(loaders.evaluation))[1].tolist() == [0, 0]


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds no images in class folders"):
        ImageFolders(tmp_path, 16, False)
