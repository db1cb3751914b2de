"""The ViT sample: torchvision's keys, the rewritten network computes the same, and the short form of the program."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

from sample.common import digits
from sample.vit.calibration import vit_calibration as program
from sample.vit.src.conv_vit import ConvVisionTransformer
from sample.vit.src.vit import VisionTransformer, VitSize, vit_b_16

SIZE = VitSize(image_size=digits.IMAGE_SIZE, patch_size=16, dim=8, depth=2, num_heads=2, mlp_dim=12)


def plain_network() -> VisionTransformer:
    """A small ViT, untrained; what begins with zeros or ones takes part."""
    torch.manual_seed(0)
    model = VisionTransformer(digits.NUM_CLASSES, SIZE)
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return model.eval()


def rewritten_network(plain: VisionTransformer) -> ConvVisionTransformer:
    model = ConvVisionTransformer(digits.NUM_CLASSES, plain.size)
    model.load_state_dict(plain.state_dict(), strict=True)
    return model.eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, digits.IMAGE_SIZE, digits.IMAGE_SIZE)


def test_vit_b_16_has_the_state_dict_of_torchvision():
    def layer(prefix: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]}

    expected = {"class_token": (1, 1, 768), **layer("conv_proj", 768, 3, 16, 16)}
    expected |= {"encoder.pos_embedding": (1, 197, 768)}
    for index in range(12):
        block = f"encoder.layers.encoder_layer_{index}"
        expected |= layer(f"{block}.ln_1", 768) | layer(f"{block}.ln_2", 768)
        expected |= {f"{block}.self_attention.in_proj_weight": (2304, 768)}
        expected |= {f"{block}.self_attention.in_proj_bias": (2304,)}
        expected |= layer(f"{block}.self_attention.out_proj", 768, 768)
        expected |= layer(f"{block}.mlp.0", 3072, 768) | layer(f"{block}.mlp.3", 768, 3072)
    expected |= layer("encoder.ln", 768) | layer("heads.head", 1000, 768)

    with torch.device("meta"):
        model = vit_b_16()

    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == 86_567_656  # the count torchvision documents


def test_rewritten_network_computes_what_the_plain_one_does():
    plain = plain_network()
    model, x = rewritten_network(plain), images()
    expected = plain(x)
    assert (model(x) - expected).abs().max() <= program.TOLERANCE * expected.abs().max()
    # Every parameter counts, and arrives.
    for name, parameter in plain.named_parameters():
        changed = VisionTransformer(digits.NUM_CLASSES, SIZE).eval()
        changed.load_state_dict(plain.state_dict() | {name: 1.5 * parameter + 0.1})
        found, wanted = rewritten_network(changed)(x), changed(x)
        assert (found - wanted).abs().max() <= program.TOLERANCE * wanted.abs().max(), name
        assert (found - expected).abs().max() > 1e-3 * expected.abs().max(), name


def test_rewritten_network_loads_its_own_checkpoint():
    model = rewritten_network(plain_network())
    again = ConvVisionTransformer(digits.NUM_CLASSES, SIZE).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    x = images()
    assert torch.equal(again(x), model(x))


def test_loading_leaves_the_checkpoint_as_it_was():
    state = plain_network().state_dict()
    before = {key: value.clone() for key, value in state.items()}
    ConvVisionTransformer(digits.NUM_CLASSES, SIZE).load_state_dict(state)
    assert list(state) == list(before)
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("encoder.layers.encoder_layer_1.self_attention.in_proj_weight", "encoder_layer_1.self_attention.q.weight"),
        ("encoder.layers.encoder_layer_0.mlp.3.bias", "encoder_layer_0.mlp.fc2.bias"),
        ("class_token", "class_token"),
    ],
)
def test_incomplete_checkpoint_is_refused_with_the_missing_key(lost: str, named: str):
    state = plain_network().state_dict()
    del state[lost]
    with pytest.raises(RuntimeError, match=rf"Missing key\(s\).*{named}"):
        ConvVisionTransformer(digits.NUM_CLASSES, SIZE).load_state_dict(state)


def test_program_stops_at_a_network_that_computes_something_else(capsys):
    plain = plain_network()
    other = rewritten_network(plain)
    nn.init.zeros_(other.encoder.ln.bias)
    program.check_equal(plain, rewritten_network(plain), images())
    assert "the logits differ by at most" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="logits differ by more than"):
        program.check_equal(plain, other, images())


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample as it is, but with the small network, and with its script in an empty folder."""
    monkeypatch.setattr(program, "trained", lambda name: plain_network())
    script = tmp_path / "vit_calibration.py"
    monkeypatch.setattr(program, "SAMPLE", dataclasses.replace(program.SAMPLE, script=script))


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["vit_calibration.py", "--eval_iter", "1", *map(str, options)])
    program.main(program.SAMPLE)


@pytest.mark.usefixtures("short")
def test_sample_prints_its_accuracies_and_leaves_its_files(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--batch_size", 4)

    for name, num_bits in (("cube_only_8bit", 8), ("cube_only_12bit", 12)):
        config = json.loads((tmp_path / "tmp" / name / "config.json").read_text(encoding="utf-8"))
        quantized = {layer: entry for layer, entry in config.items() if entry["quant_enable"]}
        convolutions = [layer for layer in quantized if layer.endswith(("_q", "_k", "_v", "out_proj", "fc1", "fc2"))]
        assert len(convolutions) == 6 * SIZE.depth
        matmuls = {"matmul", "matmul_1", "matmul_2", "matmul_3"}
        assert set(quantized) - set(convolutions) == {"conv_proj", "heads_head"} | matmuls
        bits = [one["quantizer_args"]["num_bits"] for one in quantized["matmul_1"]["activation_quant_params"]]
        assert bits == [num_bits, 8]  # the second input counts as weight
        endings = (
            ".pt", "_float_model.onnx", "_fake_quant_model.onnx", "_deploy_model.onnx", "_quant_param_record.txt",
            "_quant_param_record.bin", "_scale_offset_record.txt", "_manifest.json",
        )  # fmt: skip
        written = {file.name for file in (tmp_path / "checkpoints" / name).iterdir()}
        assert written == {f"vit_b_16_calibration{ending}" for ending in endings}

    printed = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in printed if line.endswith("s") and "%" in line]
    assert rows == ["plain", "float", "fake_quant", "real_quant", "onnxruntime"] * 2
    assert printed[-1].startswith("==> AMCT run vit_calibration.py in ")


@pytest.mark.usefixtures("short")
def test_sample_takes_a_configuration_and_a_list_of_images(tmp_path, monkeypatch):
    images = Path(digits.__file__).parents[1] / "resnet50" / "calibration" / "images" / "image_label.txt"
    run(monkeypatch, "--batch_size", 2, "--config_def", program.CUBE_ONLY[0], "--eval_set", images)
    assert [folder.name for folder in (tmp_path / "tmp").iterdir()] == ["cube_only_8bit"]
