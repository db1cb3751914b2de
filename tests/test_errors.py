"""Texts of errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import with_short_names
from tests.support.fx_path import make_config


def test_long_names_are_shortened() -> None:
    name = "a" * 1000 + "end"
    for text in (f"Layer {name} is unknown.", f"Layer '{name}' is unknown.", f"Layer 'a b {name}' is unknown."):
        error = amct.ConfigError(text)
        assert isinstance(error.args[0], str) and str(error).startswith("Layer ") and len(str(error)) < 200
        assert "more characters)" in str(error) and "end" in str(error)


@pytest.mark.parametrize("text", ["x " * 1000, "'" + "/folder" * 60 + "' is missing", "a" * 499, ""])
def test_other_texts_are_kept(text: str) -> None:
    assert with_short_names(text) == text
    assert str(amct.ExportError(text)) == text


@pytest.mark.parametrize("name", ["subprocess.Popen", "torch.nn.modules.os.system", "..os.system"])
def test_an_error_of_a_quantizer_names_the_configuration(name: str, tmp_path: Path) -> None:
    entry = {"quantizer": name, "quantizer_args": {"args": "exit 1", "shell": True}}
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 3))
    config = make_config(model, tmp_path, {"conv": {"weight_quant_params": entry}})
    with pytest.raises(amct.ConfigError, match=r"config\.json") as caught:
        amct.create_quant_model_fx(config, model)
    assert "Layer 'conv'" in str(caught.value)
