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
    scales = []
    for more in (("--batch_num", 1), ("--batch_num", 4)):
        assert amct(*SINGLY, *more).code == 0
        scales.append(scale_of_conv(folder))
    assert scales[0] != scales[1]


SINGLY = ("quantize", "net.build", "-i", "images.npy", "-b", 1, "--no-report", "--no-dump", "--no-verify")


def scale_of_conv(folder: Path) -> float:
    scale: float = read_record(folder / "out" / "build_scale_offset_record.txt").layers["conv"].activations[0].scale
    return scale


def test_all_samples_calibrate_and_refine_by_default(amct: Amct, folder: Path) -> None:
    """The shape in README's command says batches of 1, so calibration needs as many batches as there are samples."""
    line = [*SINGLY[:4], "--input_shape", "1,3,16,16", *SINGLY[6:]]
    ran = amct(*line)
    assert ran.code == 0, ran.err
    assert "Calibrated with 4 of the 4 samples of -i, batches: 4." in ran.err
    assert "Refining with 4 of the 4 samples of -i, batches: 4." in ran.err
    every = scale_of_conv(folder)
    config = json.loads((folder / "out/config.json").read_text())
    assert config["conv"]["activation_quant_params"][0]["quantizer_args"]["batch_num"] == 4
    assert amct(*SINGLY, "--batch_num", 4).code == 0
    assert scale_of_conv(folder) == every
    assert amct(*line, "--batch_num", 1).code == 0
    assert scale_of_conv(folder) != every


@pytest.mark.parametrize(("size", "calibrated"), [(1, 32), (3, 30), (33, 33)])
def test_no_more_than_32_samples_or_one_batch_calibrate_by_default(
    amct: Amct, folder: Path, size: int, calibrated: int
) -> None:
    np.save("many.npy", np.random.default_rng(0).standard_normal((40, 3, 16, 16), dtype=np.float32))
    ran = amct(*SINGLY[:2], "-i", "many.npy", "-b", size, *SINGLY[6:])
    assert ran.code == 0, ran.err
    text = f"of the 40 samples of -i, batches: {calibrated // size}; --batch_num N takes more batches"
    assert f"Calibrated with {calibrated} {text}" in ran.err
    assert f"Refining with {calibrated} {text}" in ran.err


def test_a_configuration_that_states_batch_num_keeps_it(amct: Amct, folder: Path) -> None:
    arguments = "{quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 8, batch_num: 2}}"
    (folder / "two.yml").write_text(f"common_config: {{activation_quant_params: {arguments}}}\n")
    (folder / "none.yml").write_text("skip_layers: [fc]\n")
    for name, count in (("two.yml", 2), ("none.yml", 4), ("out/config.json", 4)):
        ran = amct(*SINGLY, "--quant_config", name)
        assert ran.code == 0, ran.err
        assert f"Calibrated with {count} of the 4 samples of -i" in ran.err
        assert "Refining with 4 of the 4 samples of -i" in ran.err


def test_batch_num_is_for_observers_that_count_batches(amct: Amct, folder: Path) -> None:
    luq = "{quantizer: LuqActivationFakeQuantize, quantizer_args: {num_bits: 8}}"
    (folder / "luq.yml").write_text(f"common_config: {{activation_quant_params: {luq}}}\n")
    ran = amct(*SINGLY, "--quant_config", "luq.yml")
    assert ran.code == 0, ran.err
    config = json.loads((folder / "out/config.json").read_text())
    assert config["conv"]["activation_quant_params"][0]["quantizer_args"] == {"num_bits": 8}


def test_the_section_of_the_configuration_says_how_quantize_refines(amct: Amct, folder: Path) -> None:
    (folder / "bias.yml").write_text("refine: {methods: [bias_correction]}\n")
    weights = []
    for more in (("--no-refine",), ("--quant_config", "bias.yml"), ()):
        assert amct(*SINGLY, *more).code == 0
        weights.append(torch.load("out/build.pt", weights_only=True)["conv.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_refining_is_recommended_only_where_it_does_not_follow(amct: Amct, folder: Path) -> None:
    (folder / "asks.yml").write_text("refine: true\n")
    assert "amct.refine(model, data) takes about" not in amct(*SINGLY).err
    assert "amct.refine(model, data) takes about" not in amct(*SINGLY, "--no-refine", "--quant_config", "asks.yml").err
    assert "amct.refine(model, data) takes about" in amct(*SINGLY, "--no-refine").err


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
    "a checkpoint with another configuration": (
        (*CHECKPOINT[:2], "--quant_config", "wide.yml"),
        "Layer 'conv', input: the checkpoint was made with num_bits 8, the configuration says 12",
    ),
    "batch_num": (
        ("--batch_num", 3),
        "batch_num is 3, but the 4 samples of -i make only 1 batch of up to 4 samples. Give more samples or a -b of at"
        " most 1, or a smaller --batch_num.",
    ),
    "a file as folder": (("-o", "net.py"), "Directory 'net.py' is a file"),
    "a folder in the name": (("--name", "a/b"), "--name is 'a/b'; it is the beginning of file names"),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_quantize_says_what_is_missing(amct: Amct, work: Path, arguments: tuple[str, ...], text: str) -> None:
    wide = "{quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 12}}"
    (work / "wide.yml").write_text(f"common_config: {{activation_quant_params: {wide}}}\n")
    ran = amct("quantize", "net.build", "-i", "images.npy", "-o", "new", *arguments)
    assert ran.code == 2
    assert text in ran.error


COMMANDS = {"quantize": ("--no-report",), "refine": (), "export": (), "dump": (), "analyze": ()}


@pytest.mark.parametrize(("command", "more"), COMMANDS.items(), ids=COMMANDS)
def test_a_checkpoint_is_read_with_the_configuration_beside_it_or_the_default(
    amct: Amct, work: Path, command: str, more: tuple[str, ...]
) -> None:
    line = (command, "net.build", "-i", "image.npy", "-o", "new/net", *more)
    beside = amct(*line, "-w", "out/net.pt")
    assert beside.code == 0, beside.err
    assert "'out/config.json', which lies beside the checkpoint" in beside.err
    shutil.copy(work / "out/net.pt", work / "alone.pt")
    alone = amct(*line, "-w", "alone.pt")
    assert alone.code == 0, alone.err
    assert not list(work.glob("config.json"))


def test_float_dump_needs_neither_checkpoint_nor_configuration(amct: Amct, folder: Path) -> None:
    ran = amct("dump", "net.build", "-i", "image.npy", "--mode", "float")
    assert ran.code == 0, ran.err
    import net

    with torch.no_grad():
        expected = net.build().eval()(torch.from_numpy(np.load("image.npy")))
    assert torch.from_numpy(np.load("dump/fc_output0_1_5_pytorch.npy")).allclose(expected, atol=1e-6)
    refused = amct("dump", "net.build", "-i", "image.npy")
    assert refused.code == 2
    assert "-w is missing" in refused.error


def test_compare_runs_as_many_batches_as_the_files_take(amct: Amct, work: Path) -> None:
    line = ("compare", "fake_quant", "real_quant", "--prefix", "out/net", "--tolerance", "1", "--json", "-i")
    ran = amct(*line, "images.npy")
    assert ran.code == 0, ran.err
    assert "takes 'image' [1, 3, 16, 16]: the samples of --input are run in 4 batches" in ran.err
    together = json.loads(ran.out)["layers"]
    singly = []
    for number, image in enumerate(np.load("images.npy")):
        np.save(f"{number}.npy", image[None])
        singly.append(json.loads(amct(*line, f"{number}.npy").out)["layers"])
    for at, row in enumerate(together):
        if row["max_lsb"] is not None:
            assert row["max_lsb"] == max(one[at]["max_lsb"] for one in singly)
    np.save("small.npy", np.zeros((2, 3, 8, 8), np.float32))
    refused = amct(*line, "small.npy")
    assert refused.code == 2
    assert "--input for 'image' has the shape [2, 3, 8, 8]; 'out/net_fake_quant_model.onnx' takes [1, 3, 16, 16]" in (
        refused.error
    )


def test_analyze_takes_samples_of_several_batches(amct: Amct, folder: Path) -> None:
    scales = []
    for more in (("--input_shape", "1,3,16,16", "--samples", 4), ("--samples", 4), ("--samples", 1)):
        ran = amct("analyze", "net.build", "-i", "images.npy", "-o", "report", *more)
        assert ran.code == 0, ran.err
        report = json.loads((folder / "report" / "report.json").read_text())
        scales.append(report["settings"]["conv"][0]["scales"][0])
    assert scales[0] == scales[1], "four batches of one sample calibrate as one of four"
    assert scales[0] != scales[2]


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
