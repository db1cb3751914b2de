"""Helpers of the advice tests: get advice, apply its yaml, read the resulting configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from hotwheels.amct_pytorch.config.fx.json_config import read_config
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.plan.checks import find_violations

Rule = amct.AdviceRule


def advice_on(model: nn.Module, rule: amct.AdviceRule, *inputs: Any) -> list[amct.Advice]:
    """The advice of one kind; with ``inputs`` also that which needs data."""
    report = amct.check_model(model.eval(), inputs or None)
    return [one for one in report.advice if one.rule is rule]


def the_advice(model: nn.Module, rule: amct.AdviceRule, *inputs: Any) -> amct.Advice:
    (found,) = advice_on(model, rule, *inputs)
    return found


def configured(model: nn.Module, yaml: str, folder: Path) -> Path:
    """The config.json which create_quant_config_fx makes of a yaml."""
    definition, path = folder / "advice.yaml", folder / "config.json"
    definition.write_text(yaml)
    amct.create_quant_config_fx(path, model, definition)
    return path


def layers_of(path: Path) -> Mapping[str, Any]:
    return read_json(path)


def is_on(path: Path) -> dict[str, bool]:
    return {name: layer["quant_enable"] for name, layer in read_json(path).items()}


def bits_of(path: Path, layer: str) -> list[int]:
    return [one["quantizer_args"]["num_bits"] for one in read_json(path)[layer]["activation_quant_params"]]


def broken_rules(model: nn.Module, path: Path) -> set[str]:
    """What rules 2 and 3 of spec 13.1 say of a configuration; that everything of the CUBE is quantized is left out."""
    graph = FxBackend(model, Registry()).graph()
    found = find_violations(graph, read_config(path, graph))
    return {one.reason for one in found if "must be quantized" not in one.reason}


def fake_quant_error(quantized: nn.Module, model: nn.Module, *inputs: Any) -> float:
    """Root of the mean squared error of the outputs."""
    amct.enable_quantization(quantized, fake_quant=True)
    with torch.no_grad():
        return float((quantized(*inputs) - model(*inputs)).square().mean().sqrt())
