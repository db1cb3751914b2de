"""``amct quantize`` and the commands that use its files, on a small model."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch import proto
from hotwheels.amct_pytorch.cli import doctor
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.record import parse
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.cli.conftest import Amct

CHECKPOINT = ("-w", "out/net.pt", "--quant_config", "out/config.json")
REPORTS = {f"{one}_analysis_report.html" for one in ("layerwise", "graphwise", "statistic")}


@pytest.fixture
def work(quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of what ``amct quantize`` has read and written."""
    shutil.copytree(quantized, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_call_writes_everything(quantized: Path) -> None:
    written = {path.name for path in (quantized / "out").iterdir()}
    assert {"config.json", "dump", "quant_analyzer", "net.pt"} <= written
    names = "deploy_model.onnx fake_quant_model.onnx float_model.onnx quant_param_record.bin golden.npz"
    assert {f"net_{one}" for one in names.split()} <= written
    assert {path.name for path in (quantized / "out" / "quant_analyzer").iterdir()} >= REPORTS
    assert {path.name.partition("_output")[0] for path in (quantized / "out" / "dump").iterdir()} >= {"conv", "fc"}


def test_it_says_what_was_verified_and_what_runs_on_integers(quantized: Path) -> None:
    text = (quantized / "stdout.txt").read_text()
    assert "4 of 4 layers ok" in text
    assert "3 layers are quantized. 100.00 % of" in text
    assert "out/net_deploy_model.onnx" in text


def test_calibration_shows_its_progress(quantized: Path) -> None:
    assert "calibration: 100%" in (quantized / "stderr.txt").read_text()


def test_yaml_decides_what_is_quantized(amct: Amct, folder: Path) -> None:
    (folder / "rules.yml").write_text("skip_layers: [fc, mean]\n")
    ran = amct("quantize", "net.build", "--quant_config", "rules.yml", "-i", "images.npy", "--no-report", "--no-dump")
    assert ran.code == 0, ran.err
    assert list(read_record(folder / "out" / "build_scale_offset_record.txt").layers) == ["conv"]
    assert not (folder / "out" / "dump").exists()
    assert not (folder / "out" / "quant_analyzer").exists()


def test_an_edited_config_json_is_kept(amct: Amct, folder: Path) -> None:
    assert amct("config", "net.build", "-o", "tmp/config.json").code == 0
    document = json.loads((folder / "tmp/config.json").read_text())
    document["fc"]["quant_enable"] = False
    (folder / "tmp/config.json").write_text(json.dumps(document))
    ran = amct("quantize", "net.build", "--quant_config", "tmp/config.json", "-i", "images.npy", "--no-report")
    assert ran.code == 0, ran.err
    assert set(read_record(folder / "out" / "build_scale_offset_record.txt").layers) == {"conv", "mean"}
    assert json.loads((folder / "tmp/config.json").read_text()) == document


def test_batch_num_makes_calibration_see_more_batches(amct: Amct, folder: Path) -> None:
    line = ("quantize", "net.build", "-i", "images.npy", "-b", 1, "--no-report", "--no-dump")
    scales = []
    for more in ((), ("--batch_num", 4)):
        assert amct(*line, *more).code == 0
        scales.append(read_record(folder / "out" / "build_scale_offset_record.txt").layers["conv"].activations[0].scale)
    assert scales[0] != scales[1]
    whole = amct("quantize", "net.build", "-i", "images.npy", "--no-report", "--no-dump", "-o", "whole")
    assert whole.code == 0


def test_a_float_checkpoint_is_loaded(amct: Amct, folder: Path) -> None:
    torch.manual_seed(3)
    state = {"conv.weight": torch.randn(8, 3, 3, 3), "conv.bias": torch.randn(8), "fc.weight": torch.randn(5, 8)}
    vectors = {f"bn.{name}": torch.rand(8) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    state |= vectors | {"bn.num_batches_tracked": torch.tensor(1), "fc.bias": torch.randn(5)}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / "float.pt")
    ran = amct("quantize", "net.build", "-w", "float.pt", "-i", "images.npy", "--no-report", "--no-dump")
    assert ran.code == 0, ran.err
    saved = torch.load(folder / "out" / "build.pt", weights_only=True)
    assert torch.equal(saved["fc.weight"], state["fc.weight"])


def test_a_quantized_checkpoint_is_not_calibrated_again(amct: Amct, work: Path) -> None:
    """The call of the vendor's one-click tool: -w of a quantized model, --quant_config in JSON, --realquant."""
    np.save(work / "other.npy", 100 * np.load(work / "image.npy"))
    line = ("-m", "net.build", *CHECKPOINT, "--input_shape", "1,3,16,16", "-i", "other.npy", "--realquant", "-k", "two")
    ran = amct("quantize", *line, "--name", "net", "--no-report")
    assert ran.code == 0, ran.err
    assert read_record(work / "two/net_scale_offset_record.txt") == read_record(
        work / "out/net_scale_offset_record.txt"
    )
    assert "calibration" not in ran.err


def test_a_used_folder_holds_the_files_of_the_last_call(amct: Amct, work: Path) -> None:
    line = ("quantize", "net.build", "-i", "images.npy", "--name", "net", "--no-report", "--no-verify")
    np.save(work / "out/dump/other_output0_1_pytorch.npy", np.zeros(1))
    (work / "out/dump/notes.txt").write_text("mine")
    same = amct(*line)
    assert same.code == 0, same.err
    assert "was another one and is replaced" not in same.err
    assert not (work / "out/dump/other_output0_1_pytorch.npy").exists()
    assert (work / "out/dump/notes.txt").exists()
    (work / "rules.yml").write_text("skip_layers: [fc, mean]\n")
    other = amct(*line, "--quant_config", "rules.yml")
    assert "The configuration 'out/config.json' was another one and is replaced." in other.err


WRONG = {
    "a checkpoint without its configuration": (
        CHECKPOINT[:2],
        "is the state of a quantized model: give --quant_config",
    ),
    "batch_num": (
        ("--batch_num", 3),
        "batch_num is 3; the samples of -i (4) make 1 of up to 4. Give more samples or a -b",
    ),
    "a file as folder": (("-o", "net.py"), "Directory 'net.py' is a file"),
    "a folder in the name": (("--name", "a/b"), "--name is 'a/b'; it is the beginning of file names"),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_quantize_says_what_is_missing(amct: Amct, work: Path, arguments: tuple[str, ...], text: str) -> None:
    ran = amct("quantize", "net.build", "-i", "images.npy", "-o", "new", *arguments)
    assert ran.code == 2
    assert text in ran.error


def test_realquant_dumps_other_values_than_fake_quant(amct: Amct, work: Path) -> None:
    for folder, more in (("fake", ()), ("real", ("--realquant",)), ("float", ("--mode", "float"))):
        ran = amct("dump", "net.build", *CHECKPOINT, "-i", "image.npy", "-o", folder, *more)
        assert ran.code == 0, ran.err
        assert ran.out == f"{folder}: {len(list((work / folder).iterdir()))} files\n"
    fake, real, plain = (np.load(work / one / "fc_output0_1_5_pytorch.npy") for one in ("fake", "real", "float"))
    assert not np.array_equal(fake, plain)
    assert not np.array_equal(real, plain)
    compared = amct("compare", "real_quant", "real", "--prefix", "out/net", "--input", "image.npy")
    assert compared.code == 0, compared.out
    np.save("double.npy", np.load(work / "image.npy").astype(np.float64))
    for one in ("real_quant", "fake_quant"):
        assert amct("compare", one, one, "--prefix", "out/net", "-i", "double.npy").code == 0


def test_verify_and_its_json(amct: Amct, work: Path) -> None:
    ran = amct("verify", "out/net", "--json")
    assert ran.code == 0
    assert {one["name"]: one["is_ok"] for one in json.loads(ran.out)} == dict.fromkeys(
        ("conv", "mean", "fc", "output"), True
    )


def test_compare_as_json_and_as_a_page(amct: Amct, work: Path) -> None:
    line = ("compare", "float", "fake_quant", "--prefix", "out/net", "-i", "image.npy", "--tolerance", 0)
    ran = amct(*line, "--json", "--html", "page.html")
    document = json.loads(ran.out)
    assert [one["layer"] for one in document["layers"]][-1] == "fc"
    assert ran.code == int(any(one["diverges"] for one in document["layers"]))
    page = (work / "page.html").read_text()
    assert "<td>conv</td>" in page
    assert "http" not in page


def test_refine_writes_a_checkpoint_and_the_files(amct: Amct, work: Path) -> None:
    ran = amct("refine", "net.build", *CHECKPOINT, "-i", "images.npy", "-o", "refined/net")
    assert ran.code == 0, ran.err
    assert "conv: " in ran.out
    before, after = (torch.load(work / one, weights_only=True) for one in ("out/net.pt", "refined/net.pt"))
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert amct("verify", "refined/net").code == 2  # no golden file
    assert (work / "refined/net_deploy_model.onnx").is_file()


def test_auto_writes_a_configuration_that_quantize_takes(amct: Amct, work: Path) -> None:
    ran = amct("auto", "net.build", "-i", "images.npy", "--budget", "1.1", "-o", "auto.yml", "--data_bits", "8,16")
    assert ran.code == 0, ran.err
    assert "chosen: cost " in ran.out and "conv: W" in ran.out
    assert (work / "auto_report.json").is_file()
    options = ("--quant_config", "auto.yml", "-i", "images.npy", "--no-report", "--no-dump", "-o", "chosen")
    assert amct("quantize", "net.build", *options).code == 0


@pytest.mark.parametrize(("options", "text"), [((), "target or budget"), (("--data_bits", "8,x"), "--data_bits is")])
def test_auto_says_what_it_needs(amct: Amct, work: Path, options: tuple[str, ...], text: str) -> None:
    ran = amct("auto", "net.build", "-i", "images.npy", *options)
    assert ran.code == 2
    assert text in ran.err


def test_export_writes_the_same_factors(amct: Amct, work: Path) -> None:
    ran = amct("export", "net.build", *CHECKPOINT, "--input_shape", "1,3,16,16", "-o", "again/net")
    assert ran.code == 0, ran.err
    name = "net_quant_param_record.bin"
    assert (work / "again" / name).read_bytes() == (work / "out" / name).read_bytes()


@pytest.mark.parametrize("weights", [CHECKPOINT, ()], ids=["quantized", "float"])
def test_analyze_writes_the_reports(amct: Amct, work: Path, weights: tuple[str, ...]) -> None:
    ran = amct("analyze", "net.build", *weights, "-i", "images.npy", "-o", "reports")
    assert ran.code == 0, ran.err
    assert {path.name for path in (work / "reports").iterdir()} >= REPORTS


@pytest.mark.parametrize("command", ["dump", "export", "refine"])
def test_commands_on_checkpoints_refuse_a_float_one(amct: Amct, folder: Path, command: str) -> None:
    ran = amct(command, "net.build", "--quant_config", "config.json", "-i", "image.npy")
    assert ran.code == 2
    assert "-w is missing" in ran.err


def test_check_reports_and_says_with_1_that_the_model_cannot_be_followed(amct: Amct, folder: Path) -> None:
    good = amct("check", "net.build", "-i", "images.npy")
    assert good.code == 0
    assert "torch.nn.Conv2d (1): conv" in good.out
    bad = amct("check", "net.NoOutput")
    assert bad.code == 1
    assert "Problem 1." in bad.out


def test_doctor_names_versions_and_remedies(amct: Amct) -> None:
    ran = amct("doctor")
    assert ran.code == 0, ran.out
    assert torch.__version__ in ran.out
    missing = [line for line in ran.out.splitlines() if line.startswith("-  ")]
    remedies = [line for line in ran.out.splitlines() if "install" in line]
    assert len(missing) == len(remedies)


def test_doctor_ends_with_1_where_something_needed_is_missing(amct: Amct, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    original = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnx-ir":
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    ran = amct("doctor")
    assert ran.code == 1
    assert "pip install onnx-ir" in ran.out


def test_messages_older_than_their_proto_file_are_told_by_doctor_and_by_the_error_of_a_cfg(
    amct: Amct, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("calibration_config_pytorch", "calibration_param"):
        text = resources.files(proto.__name__).joinpath(f"{name}.proto").read_text("utf-8")
        new = "message New { optional int32 brand_new = 1; }\n" if name != "calibration_param" else ""
        (tmp_path / f"{name}.proto").write_text(text + new)
    assert proto.outdated_modules() == []
    for module in (doctor, parse):
        monkeypatch.setattr(module, "outdated_modules", lambda: proto.outdated_modules(tmp_path))
    told = "calibration_config_pytorch_pb2.py is older than"
    ran = amct("doctor")
    assert ran.code == 1
    assert told in ran.out
    with pytest.raises(ConfigError, match=f"brand_new.*{told} .* run pip install -e . again"):
        parse.parse_message(proto.AMCTConfig, "brand_new: 1", "my.cfg", ConfigError)


def test_timm_models_by_name(amct: Amct, folder: Path) -> None:
    pytest.importorskip("benchmarks.zoo.libraries", exc_type=ImportError)
    ran = amct("check", "timm:test_resnet.r160_in1k")
    assert ran.code == 0, ran.err
    assert "Quantized by default" in ran.out
    wrong = amct("check", "timm:test_resnet_")
    assert wrong.code == 2
    assert "Did you mean" in wrong.error
