"""Command lines of the manual: weights from torch's hub cache, folders as evaluation data, missing keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn")

from sample.common.images import image_loader
from sample.common.restoring import state_in
from sample.common.retrain_options import parse_options

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torch.hub keeps checkpoints; the command line trains on folders."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    line = ["resnet50_retrain.py", "--train_set", str(tmp_path), "--eval_set", str(tmp_path), "--benchmark"]
    monkeypatch.setattr(sys, "argv", line)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_weights_come_from_the_cache_of_torch_hub(cache: Path) -> None:
    (cache / "resnet50-0676ba61.pth").touch()
    (cache / "resnet18-5c106cde.pth").touch()
    assert parse_options("resnet50", from_checkpoint=False).weights == cache / "resnet50-0676ba61.pth"


def test_an_empty_cache_is_named(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options("resnet50", from_checkpoint=False)
    assert f"there is no {cache}/resnet50-<hash>.pth" in capsys.readouterr().err


def test_a_missing_key_lists_those_that_are_there() -> None:
    content = {"quant_model_weights": {"a": torch.zeros(1)}, "optimizer": {}}
    assert state_in(content, "quant_model_weights", Path("x.pt")) == content["quant_model_weights"]
    with pytest.raises(SystemExit, match=r"has no key 'weights'\. Its keys: quant_model_weights, optimizer\."):
        state_in(content, "weights", Path("x.pt"))


def test_a_folder_of_class_folders_is_an_evaluation_set(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (255 * label, 0, 0)).save(tmp_path / name / "a.png")
    ((images, labels),) = image_loader(tmp_path, 8, 2)
    assert (images.shape, labels.tolist()) == ((2, 3, 8, 8), [0, 1])
    assert images[1, 0, 0, 0] > images[0, 0, 0, 0]


def test_the_tree_is_that_of_the_manual() -> None:
    folder = ROOT / "sample" / "resnet50"
    files = "dump_layer_outputs.py calibration/resnet50_calibration.py calibration/images/image_label.txt"
    files += (
        " retrain/resnet50_retrain.py retrain/resnet50_retrain_from_checkpoint.py quantize_conf/custom_quantize.yml"
    )
    assert [name for name in files.split() if not (folder / name).is_file()] == []
