"""``strict=True`` and AMCT_STRICT=1: what a configuration says and nothing matches is an error, on both paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct

X = torch.zeros(1, 3, 4, 4)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softsign(), amct.nn.SpaceToDepth(2)).eval()


def fx_config(folder: Path, text: str, **options: object) -> dict[str, object]:
    (folder / "a.yaml").write_text(text)
    amct.create_quant_config_fx(folder / "c.json", net(), folder / "a.yaml", **options)
    return json.loads((folder / "c.json").read_text())


def cfg_config(folder: Path, text: str, **options: object) -> dict[str, object]:
    (folder / "a.cfg").write_text(text)
    amct.create_quant_config(folder / "c.json", net(), X, config_defination=folder / "a.cfg", **options)
    return json.loads((folder / "c.json").read_text())


def retrain_config(folder: Path, text: str, **options: object) -> dict[str, object]:
    (folder / "a.cfg").write_text(text)
    amct.create_quant_retrain_config(folder / "c.json", net(), X, folder / "a.cfg", **options)
    return json.loads((folder / "c.json").read_text())


UNMATCHED = {
    "layer": (fx_config, "skip_layers: [conv]", "layer 'conv' is not in the model"),
    "type": (
        fx_config,
        "override_layer_types: [{layer_type: torch.nn.Conv2D}]",
        "no operation of type",
    ),
    "key": (fx_config, "skip_layer: []", "unknown key 'skip_layer'"),
    "no type": (fx_config, "override_layer_types: [{quant_enable: false}]", "has no layer_type"),
    "argument": (
        fx_config,
        "common_config: {activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {bits: 8}}}",
        "unknown key 'bits'",
    ),
    "cfg layer": (cfg_config, 'skip_layers: "conv"', "layer 'conv' is not in the model"),
    "cfg type": (cfg_config, 'skip_layer_types: "Conv2D"', "no quantizable layer of type 'Conv2D'"),
    "cfg fusion": (cfg_config, 'skip_fusion_layers: "conv"', "layer 'conv' is not in the model"),
    "retrain layer": (retrain_config, 'skip_layers: "conv"', "layer 'conv' is not in the model"),
}


@pytest.mark.parametrize(("make", "text", "message"), UNMATCHED.values(), ids=UNMATCHED)
def test_what_matches_nothing(make, text: str, message: str, tmp_path: Path, log_lines, monkeypatch) -> None:
    monkeypatch.delenv("AMCT_STRICT", raising=False)
    make(tmp_path, text)
    assert any(message in line for line in log_lines.warnings)
    with pytest.raises(amct.ConfigError, match=message):
        make(tmp_path, text, strict=True)
    monkeypatch.setenv("AMCT_STRICT", "1")
    with pytest.raises(amct.ConfigError, match=message):
        make(tmp_path, text)
    make(tmp_path, text, strict=False)


def test_strict_where_everything_matches(tmp_path: Path) -> None:
    text = "skip_layers: ['_0']\noverride_layer_types: [{layer_type: [Conv2d, torch.nn.GELU]}]"
    assert fx_config(tmp_path, text, strict=True)["_0"]["quant_enable"] is False


def test_strict_reads_config_json(tmp_path: Path) -> None:
    document = fx_config(tmp_path, "")
    document["_0"]["quant_enabled"] = True
    (tmp_path / "c.json").write_text(json.dumps(document))
    amct.create_quant_model_fx(tmp_path / "c.json", net())
    with pytest.raises(amct.ConfigError, match="unknown key 'quant_enabled'"):
        amct.create_quant_model_fx(tmp_path / "c.json", net(), strict=True)
    document = cfg_config(tmp_path, "")
    document["0"]["quant_enabled"] = True
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(amct.ConfigError, match="unknown key 'quant_enabled'"):
        amct.quantize_model(tmp_path / "c.json", tmp_path / "m.onnx", tmp_path / "r.txt", net(), X, strict=True)


def test_wrong_values_of_the_switches(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(TypeError, match="strict must be a bool or None, got str"):
        fx_config(tmp_path, "", strict="yes")
    monkeypatch.setenv("AMCT_STRICT", "perhaps")
    with pytest.raises(amct.ConfigError, match="AMCT_STRICT is 'perhaps'; allowed: 1, 0"):
        fx_config(tmp_path, "skip_layers: [conv]")


@pytest.mark.parametrize("name", ["Conv2d", "nn.Conv2d", "torch.nn.Conv2d", "Conv"])
def test_one_spelling_for_both_paths(name: str, tmp_path: Path) -> None:
    text = f"common_config: {{quant_enable: false}}\noverride_layer_types: [{{layer_type: '{name}'}}]"
    on = {key for key, layer in fx_config(tmp_path, text, strict=True).items() if layer["quant_enable"]}
    document = cfg_config(tmp_path, f'skip_layer_types: "{name}"', strict=True)
    off = {key for key, layer in document.items() if isinstance(layer, dict) and not layer["quant_enable"]}
    assert (on, off - {"1"}) == ({"_0"}, {"0"})  # Softsign is off by default
