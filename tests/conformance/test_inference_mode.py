"""A script that runs as a whole in torch.inference_mode, the model's construction included."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from tests.support.dynamic_nets import SmallResNet


def images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def fx_script(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model, x, config = SmallResNet().eval(), images(), folder / "config.json"
    amct.create_quant_config_fx(config, model)
    quantized = amct.create_quant_model_fx(config, model)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.refine(quantized, x, progress=False)
    for mode in ("fake_quant", "real_quant"):
        amct.enable_quantization(quantized, **{mode: True})
        quantized(x)
    amct.save_quant_model_fx(quantized, folder / "net", x, golden_inputs=x)
    torch.save(quantized.state_dict(), folder / "net.pt")
    return amct.restore_quant_model_fx(config, model, folder / "net.pt")


def dynamic_script(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model, x, config, record = SmallResNet().eval(), images(), folder / "config.json", folder / "record.txt"
    amct.create_quant_config(config, model, x)
    quantized = amct.quantize_model(config, folder / "float.onnx", record, model, x)
    quantized(x)
    amct.save_model(folder / "float.onnx", record, folder / "net", quantized)
    amct.create_quant_retrain_config(config, model, x)
    return amct.create_quant_retrain_model(config, model, record, x)


def test_fx(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = fx_script(tmp_path / "plain")
    with torch.inference_mode():
        inside = fx_script(tmp_path)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, inside.state_dict()[name]), name
    trained = amct.create_quant_model_fx(tmp_path / "config.json", SmallResNet())  # as ever after the mode
    amct.enable_quantization(trained, calibration=True, fake_quant=True)
    trained.train()(images()).sum().backward()


def test_dynamic(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = dynamic_script(tmp_path / "plain")
    with torch.inference_mode():
        inside = dynamic_script(tmp_path)
    assert (tmp_path / "record.txt").read_text() == (tmp_path / "plain" / "record.txt").read_text()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, inside.state_dict()[name]), name
    inside.train()(images()).sum().backward()
