"""Advice that needs data: matmul, inputs of different ranges, siblings; and when it is logged."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.core.metrics import sqnr_db
from tests.support.advice_path import (
    Rule,
    advice_on,
    bits_of,
    broken_rules,
    configured,
    fake_quant_error,
    is_on,
    layers_of,
    the_advice,
)
from tests.support.fx_path import calibrate, make_config, quantize, run_fake
from tests.support.log_lines import LogLines

IMAGE = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5


class Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b)


class Swapped(nn.Module):
    """What the advice tells to write instead of Product."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(b.transpose(-1, -2), a.transpose(-1, -2)).transpose(-1, -2)


def wide_inputs() -> tuple[Tensor, Tensor]:
    """A few rows of the second input reach far, where the first one has small values."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 16, 32, generator=generator), torch.randn(2, 32, 16, generator=generator)
    b[:, :2] *= 60
    a[:, :, :2] *= 0.02
    return a, b


def test_swap_of_a_matmul_gains_what_the_advice_says(tmp_path: Path) -> None:
    """The model is rewritten as advised, its first input gets 12 bits by the yaml, and fake_quant is measured."""
    inputs = wide_inputs()
    advice = the_advice(Product(), Rule.MATMUL_SECOND_INPUT, *inputs)
    assert advice.layers == ("matmul",)
    low, high = inputs[1].aminmax()
    assert f"ranges from {low:.4g} to {high:.4g}" in advice.finding

    wanted = Product()(*inputs)
    as_is = sqnr_db(wanted, run_fake(quantize(Product(), tmp_path, [inputs]), *inputs))
    model = Swapped()
    path = configured(model, _with_skips(advice.yaml, "transpose", "transpose_1", "transpose_2"), tmp_path)
    assert bits_of(path, "matmul") == [12, 8]
    quantized = amct.create_quant_model_fx(path, model)
    calibrate(quantized, [inputs])
    swapped = sqnr_db(wanted, run_fake(quantized, *inputs))
    assert swapped - as_is > 6.0
    assert f"a swap gains {swapped - as_is:.1f} dB: {swapped:.1f} instead of {as_is:.1f} dB" in advice.reason


def _with_skips(advice: str, *layers: str) -> str:
    """The transposes are quantized in 8 bits by default; here only the matmul is looked at."""
    return yaml.safe_dump(yaml.safe_load(advice) | {"skip_layers": list(layers)})


def test_matmul_whose_swap_gains_little() -> None:
    """Both inputs lose the same, so that more bits for one of them gain 3 dB."""
    a, b = torch.randn(2, 16, 32) * 50, torch.randn(2, 32, 16) * 50
    assert not advice_on(Product(), Rule.MATMUL_SECOND_INPUT, a, b)


def test_wide_first_input_is_in_its_place() -> None:
    a, b = wide_inputs()
    assert not advice_on(Product(), Rule.MATMUL_SECOND_INPUT, b.transpose(-1, -2), a.transpose(-1, -2))


def test_vector_has_no_transpose() -> None:
    a, b = wide_inputs()
    assert not advice_on(Product(), Rule.MATMUL_SECOND_INPUT, a[0], b[0, :, 0])


@pytest.mark.parametrize(("reach", "is_wide"), [(29.0, False), (31.0, True)])
def test_without_tensors_the_range_decides(reach: float, is_wide: bool, tmp_path: Path) -> None:
    """The example of HiSilicon's AMCT manual reaches 30.7."""
    a, b = torch.rand(4, 8), torch.rand(8, 4)
    b[0, 0] = reach
    quantized = quantize(Product(), tmp_path, [(a, b)])
    found = [one for one in amct.check_model(quantized).advice if one.rule is Rule.MATMUL_SECOND_INPUT]
    assert len(found) == is_wide
    assert all("check_model(model, inputs) measures" in one.reason for one in found)


class Join(nn.Module):
    """Two branches, the second of which is ``factor`` times smaller, meet in front of a convolution."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1, bias=False)
        with torch.no_grad():
            for conv, scale in ((self.wide, 1.0), (self.narrow, 1.0 / factor)):
                conv.weight.copy_(torch.eye(4, 3)[:, :, None, None] * scale)
                conv.bias.zero_()
            self.head.weight[:, :4] = 0.001 * torch.randn(4, 4, 1, 1)
            self.head.weight[:, 4:] = torch.randn(4, 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.wide(x), self.narrow(x)], 1))


def test_cat_of_very_different_ranges(tmp_path: Path) -> None:
    model = Join(60.0)
    advice = the_advice(model, Rule.RANGES, IMAGE)
    assert advice.layers == ("cat",)
    assert "input 0 ('wide')" in advice.finding and "input 1 ('narrow')" in advice.finding
    assert advice.finding.endswith("60 times less")
    split, wider = advice.remedies
    assert "conv_a(a) + conv_b(b)" in split.text and split.yaml is None
    path = configured(model, wider.yaml, tmp_path)
    assert (bits_of(path, "cat"), bits_of(path, "head"), bits_of(path, "wide")) == ([12, 12], [12], [8])
    assert not broken_rules(model, path)


def test_twelve_bits_at_a_cat_help(tmp_path: Path) -> None:
    """Only with the convolution behind it: it has one grid for both tensors."""
    model = Join(60.0).eval()
    before = fake_quant_error(quantize(model, tmp_path, [(IMAGE,)]), model, IMAGE)
    quantized = amct.create_quant_model_fx(
        configured(model, the_advice(model, Rule.RANGES, IMAGE).yaml, tmp_path), model
    )
    calibrate(quantized, [(IMAGE,)])
    assert fake_quant_error(quantized, model, IMAGE) < before / 2
    assert not amct.check_model(quantized).advice


@pytest.mark.parametrize("factor", [45.0, 1 / 45.0])
def test_cat_of_ranges_that_are_near_enough(factor: float) -> None:
    assert not amct.check_model(Join(factor), IMAGE).advice


def test_zeros_are_no_range() -> None:
    assert not amct.check_model(Join(float("inf")), IMAGE).advice


def test_order_of_the_inputs_does_not_matter() -> None:
    advice = the_advice(Join(1 / 70.0), Rule.RANGES, IMAGE)
    assert "input 1 ('narrow') reaches" in advice.finding and advice.finding.endswith("70 times less")


class Gate(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x * self.factor * torch.tanh(x))


def test_mul_of_very_different_ranges_may_also_be_left_in_float(tmp_path: Path) -> None:
    model, x = Gate(100.0), torch.linspace(-1, 1, 64).reshape(1, 64)
    advice = the_advice(model, Rule.RANGES, x)
    assert advice.layers == ("mul_1",)
    split, wider, skipped = advice.remedies
    assert split.yaml is None
    assert bits_of(configured(model, wider.yaml, tmp_path), "mul_1") == [12, 12]
    on = is_on(configured(model, skipped.yaml, tmp_path))
    assert [name for name, enabled in on.items() if not enabled] == ["mul_1"]
    assert not broken_rules(model, tmp_path / "config.json")


def test_mul_of_ranges_that_are_near_enough() -> None:
    assert not amct.check_model(Gate(30.0), torch.linspace(-1, 1, 64).reshape(1, 64)).advice


def test_add_of_very_different_ranges_is_not_advised() -> None:
    class Add(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 100 + x

    assert not amct.check_model(Add(), IMAGE).advice


class Encoder(nn.Module):
    """Post-norm: what a Linear on three dimensions reads, without offset, an addition reads with offset."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_siblings_whose_grids_come_out_differently(tmp_path: Path) -> None:
    model, x = Encoder(norm_first=False).eval(), torch.randn(2, 5, 8)
    advice = the_advice(model, Rule.SIBLINGS, x)
    assert advice.layers == (
        "layer_self_attn_q_proj",
        "layer_self_attn_k_proj",
        "layer_self_attn_v_proj",
        "layer_add",
        "layer_linear1",
        "layer_add_1",
    )
    assert "'x' is read on different grids" in advice.finding and "'layer_norm1' is read" in advice.finding
    quantized = amct.create_quant_model_fx(configured(model, advice.yaml, tmp_path), model)
    calibrate(quantized, [(x,)])
    layers = quantized.quantized_layers
    assert layers["layer_self_attn_q_proj"].activation[0] is layers["layer_add"].activation[0]
    assert layers["layer_linear1"].activation[0] is layers["layer_add_1"].activation[0]
    assert not [one for one in amct.check_model(quantized).advice if one.rule is Rule.SIBLINGS]


def test_siblings_on_one_grid() -> None:
    assert not advice_on(Encoder(norm_first=True), Rule.SIBLINGS, torch.randn(2, 5, 8))


class NonLocal(nn.Module):
    """``relu`` is read by a matmul, which has no offset, and by an addition; ``cast`` tells whether through a cast."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.cast = cast

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return torch.matmul(x.float() if self.cast else x, x) + x


@pytest.mark.parametrize("cast", [False, True], ids=["direct", "through a cast"])
def test_siblings_of_different_settings(cast: bool, tmp_path: Path) -> None:
    model = NonLocal(cast)
    advice = the_advice(model, Rule.SIBLINGS)
    assert advice.layers == ("matmul", "add")
    assert advice.finding == "Different quantizer: 'matmul' and 'add', which read 'relu'"
    path = configured(model, advice.yaml, tmp_path)
    assert not broken_rules(model, path)
    matmul, add = (layers_of(path)[name]["activation_quant_params"] for name in ("matmul", "add"))
    assert add[1]["quantizer"] == matmul[0]["quantizer"] == "LuqActivationFakeQuantize"
    assert add[0]["quantizer"] == "UlqFakeQuantize", "the other input of the addition stays as it is"
    quantized = amct.create_quant_model_fx(path, model)
    assert not quantized.origin.advice


def test_all_siblings_that_differ_are_named(tmp_path: Path) -> None:
    class Net(Join):
        def forward(self, x: Tensor) -> Tensor:
            return self.wide(x).sum() + torch.abs(x) + torch.tanh(x) + x

    model = Net(1.0)
    path = configured(model, "skip_layers: [abs_1, tanh]", tmp_path)
    (advice,) = amct.create_quant_model_fx(path, model).origin.advice
    assert advice.layers == ("wide", "abs_1", "tanh")
    assert advice.finding == "Different quant_enable: 'wide' and 'abs_1', 'tanh', which read 'x'"
    assert all(is_on(configured(model, advice.yaml, tmp_path)).values())


def test_one_layer_may_be_its_own_sibling(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    path = make_config(Net(), tmp_path)
    layers = dict(layers_of(path))
    layers["mul"]["activation_quant_params"][1]["quantizer_args"]["num_bits"] = 12
    path.write_text(json.dumps(layers))
    (advice,) = amct.create_quant_model_fx(path, Net()).origin.advice
    assert advice.finding == "Different num_bits: 'mul' and 'mul', which read 'x'"
    assert bits_of(configured(Net(), advice.yaml, tmp_path), "mul") == [12, 12]


def test_sibling_that_is_off_is_switched_on_or_all_are_skipped(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.hardtanh(x) + nn.functional.silu(x)

    advice = the_advice(Net(), Rule.SIBLINGS)
    assert advice.layers == ("hardtanh", "silu")
    same, skipped = advice.remedies
    assert is_on(configured(Net(), same.yaml, tmp_path)) == {"hardtanh": True, "silu": True, "add": True}
    assert not broken_rules(Net(), tmp_path / "config.json")
    assert is_on(configured(Net(), skipped.yaml, tmp_path)) == {"hardtanh": False, "silu": False, "add": True}
    assert not broken_rules(Net(), tmp_path / "config.json")


def test_sibling_of_a_convolution_is_switched_on(tmp_path: Path) -> None:
    """The convolution must stay, so the addition goes along; with the CUBE alone quantized the addition may differ."""

    class Net(Join):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.wide(x)[:, :3] + x)

    model = Net(1.0)
    cube_only = "common_config: {quant_enable: false}\noverride_layer_types: [{layer_type: torch.nn.Conv2d}]"
    assert not amct.create_quant_model_fx(configured(model, cube_only, tmp_path), model).origin.advice
    some = cube_only.replace("torch.nn.Conv2d", "[torch.nn.Conv2d, torch.sigmoid]")
    quantized = amct.create_quant_model_fx(configured(model, some, tmp_path), model)
    (advice,) = quantized.origin.advice
    assert advice.finding == "Different quant_enable: 'wide' and 'add', which read 'x'"
    assert len(advice.remedies) == 1
    merged = yaml.safe_dump(yaml.safe_load(some) | yaml.safe_load(advice.yaml))
    assert is_on(configured(model, merged, tmp_path)) == {"wide": True, "add": True, "sigmoid": True}
    assert not broken_rules(model, tmp_path / "config.json")


def advice_lines(lines: LogLines) -> list[tuple[str, str]]:
    return [(level, text) for level, text in lines.lines if text.startswith("Advice, ")]


def test_log_has_what_calibration_shows_once(tmp_path: Path, log_lines: LogLines) -> None:
    model = Join(60.0).eval()
    quantized = quantize(model, tmp_path, [(IMAGE,)])
    assert not advice_lines(log_lines), "nothing while it is calibrated"
    for _ in range(2):
        run_fake(quantized, IMAGE)
        run_fake(copy.deepcopy(quantized), IMAGE)
    amct.save_quant_model_fx(quantized, tmp_path / "net", IMAGE)
    ((level, text),) = advice_lines(log_lines)
    assert level == "INFO"
    reach = f"{float(IMAGE.abs().max()):.4g}"
    assert text.startswith(f"Advice, inputs of very different ranges: In 'cat' input 0 ('wide') reaches {reach}, ")
    assert "Or: Give its inputs, and all inputs that must share their grids, 12 bits: {override_layer_configs: " in text
    assert "\n" not in text


class Joins(nn.Module):
    """Three cats of inputs with very different ranges."""

    def forward(self, x: Tensor) -> Tensor:
        for factor in (90.0, 95.0, 99.0):
            x = torch.cat([x.relu(), x.sigmoid() / factor], 1)
        return x


def test_log_has_one_line_per_rule_with_all_layers(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = quantize(Joins().eval(), tmp_path, [(IMAGE,)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", IMAGE)
    ((_, text),) = advice_lines(log_lines)
    assert "In 'cat' input" in text
    assert text.endswith("prints: 'cat_1'; 'cat_2'.")


def test_log_at_saving_if_it_was_not_evaluated(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = quantize(Join(60.0).eval(), tmp_path, [(IMAGE,)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", IMAGE)
    assert len(advice_lines(log_lines)) == 1


def test_log_of_a_model_that_is_not_calibrated_has_nothing(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = amct.create_quant_model_fx(make_config(Join(60.0), tmp_path), Join(60.0))
    amct.enable_quantization(quantized, fake_quant=True)
    assert not advice_lines(log_lines)
    calibrate(quantized, [(IMAGE,)])
    amct.enable_quantization(quantized, real_quant=True)
    assert len(advice_lines(log_lines)) == 1


def test_log_has_what_needs_no_data_when_the_model_is_made(tmp_path: Path, log_lines: LogLines) -> None:
    model = NonLocal(cast=False)
    path = make_config(model, tmp_path)
    assert not advice_lines(log_lines)
    amct.create_quant_model_fx(path, model)
    ((level, text),) = advice_lines(log_lines)
    assert level == "WARNING", "the converter may refuse it"
    assert text.startswith("Advice, siblings on different grids: ")
    start = text.index("Do: Quantize them in the same way: ") + len("Do: Quantize them in the same way: ")
    assert not broken_rules(model, configured(model, text[start:].removesuffix("."), tmp_path))


class Multiplied(Join):
    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) * self.narrow(x)


def test_advice_on_a_restored_model(tmp_path: Path, log_lines: LogLines) -> None:
    model = Multiplied(60.0).eval()
    quantized = quantize(model, tmp_path, [(IMAGE,)])
    torch.save(quantized.state_dict(), tmp_path / "net.pt")
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", model, tmp_path / "net.pt")
    (advice,) = amct.check_model(restored).advice
    assert advice.rule is Rule.RANGES


def test_calibrated_advice_costs_next_to_nothing(tmp_path: Path) -> None:
    """It reads grids: no forward, no statistics of its own."""
    quantized = quantize(Join(60.0).eval(), tmp_path, [(IMAGE,)])
    calls = []
    for layer in quantized.quantized_layers.values():
        layer.register_forward_hook(lambda *_: calls.append(1))
    assert amct.check_model(quantized).advice
    amct.enable_quantization(quantized, fake_quant=True)
    assert not calls


def as_arrays(state: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in state.items()}


def test_check_leaves_a_quantized_model_as_it_is(tmp_path: Path) -> None:
    quantized = quantize(Join(60.0).train(), tmp_path, [(IMAGE,)])
    before, mode = as_arrays(quantized.state_dict()), quantized.mode
    image = IMAGE.clone()
    report = amct.check_model(quantized, image)
    assert report.is_quantized and report.advice
    assert quantized.mode is mode and quantized.training
    assert torch.equal(image, IMAGE)
    after = as_arrays(quantized.state_dict())
    assert all(np.array_equal(value, after[name]) for name, value in before.items())
