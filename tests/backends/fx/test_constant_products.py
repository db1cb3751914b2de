"""Products with a constant operand: when the constant is a weight, and when it is an input like the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from hotwheels.amct_pytorch.core.metrics import sqnr_db
from hotwheels.amct_pytorch.errors import ConfigError
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import calibrate, quantize, run_onnx, run_real
from tests.support.log_lines import LogLines

_SIDE = "{quantizer: LuqActivationFakeQuantize, quantizer_args: {observer: IFMRObserver, num_bits: %d, batch_num: 1}}"


class Fourier(nn.Module):
    """The positional encoding of a point: a product with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(2, 16))
        self.last = nn.Linear(16, 3)

    def forward(self, points: Tensor) -> Tensor:
        return self.last(torch.sin((2 * points - 1) @ self.table))


class Mixing(nn.Module):
    """A parameter in front of the data: no Linear, whose weight stands behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix @ x


class Projection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Widened(nn.Module):
    """A parameter that gives the result more rows than the data."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.rows).sum(-1)


def test_sum_with_a_larger_parameter_has_the_shape_of_both(tmp_path: Path) -> None:
    quantized = quantize(Widened().eval(), tmp_path, [(torch.randn(3, 8),)])
    assert {"mul", "sum_1"} <= quantized.quantized_layers.keys()
    assert_exact(quantized, tmp_path, [torch.randn(3, 8)])


def test_product_with_a_buffer_is_off_and_nothing_complains(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = quantize(Fourier().eval(), tmp_path, [(torch.rand(4, 2),)])
    assert read_json(tmp_path / "config.json")["matmul"]["quant_enable"] is False
    assert "matmul" not in quantized.quantized_layers
    assert not any("'matmul'" in line or "must be quantized" in line for line in log_lines.warnings)


def test_product_with_a_buffer_is_quantized_when_the_configuration_names_it(tmp_path: Path) -> None:
    definition = tmp_path / "simple.yaml"
    sides = f"[{_SIDE % 16}, {_SIDE % 8}]"
    definition.write_text(
        "common_config: {quant_enable: False}\n"
        f"override_layer_configs: [{{layer_name: [matmul], activation_quant_params: {sides}}}]\n"
    )
    model = Fourier().eval()
    amct.create_quant_config_fx(tmp_path / "config.json", model, definition)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    calibrate(quantized, [(torch.rand(4, 2),)])
    record = quantized.quantized_layers["matmul"].record()
    assert [one.num_bits for one in record.activations] == [16, 8]
    assert_exact(quantized, tmp_path, [torch.rand(3, 2)])


def test_parameter_in_front_of_the_data_is_an_input_of_8_bits(tmp_path: Path) -> None:
    definition = tmp_path / "simple.yaml"
    definition.write_text(f"common_config: {{activation_quant_params: {_SIDE % 12}}}\n")
    model = Mixing().eval()
    amct.create_quant_config_fx(tmp_path / "config.json", model, definition)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    calibrate(quantized, [(torch.randn(2, 4, 7),)])
    assert [one.num_bits for one in quantized.quantized_layers["matmul"].record().activations] == [8, 8]
    assert_exact(quantized, tmp_path, [torch.randn(3, 4, 7)])


class RelativePositions(nn.Module):
    """Part of SAM's attention: rows of a table, chosen and interpolated by the size of the image, times the data."""

    def __init__(self, has_parameter: bool = True) -> None:
        super().__init__()
        self.query, self.position = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 1, 8))
        table = torch.randn(9, 8)
        self.table = nn.Parameter(table) if has_parameter else None
        self.register_buffer("fixed", table)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[1]
        table = self.fixed if self.table is None else self.table
        rows = F.interpolate(table.t()[None], size=2 * height - 1, mode="linear")[0].t()
        places = torch.arange(height)[:, None] - torch.arange(height)[None, :] + (height - 1)
        return torch.einsum("bhc,hkc->bhk", self.query(x + self.position), rows[places])


def test_table_from_a_parameter_and_sizes_is_quantized_and_follows_the_size(tmp_path: Path) -> None:
    model = RelativePositions().eval()
    quantized = quantize(model, tmp_path, [(torch.randn(4, 7, 8),)])
    assert len(quantized.quantized_layers["einsum"].record().activations) == 2
    for size in (7, 4):
        x = torch.randn(3, size, 8)
        with torch.no_grad():
            assert sqnr_db(model(x), run_real(quantized, x)) > 15  # a table of another size gives 0 dB
    assert_exact(quantized, tmp_path, [torch.randn(2, 7, 8)])


class Matrix(nn.Module):
    """F.linear with a matrix of the data, or of a table for the size of the image."""

    def __init__(self, is_table: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 9)) if is_table else None
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        matrix = x[0] * 0.7 if self.table is None else self.table[:5, :size]
        return F.linear(x, matrix, bias=self.bias)


@pytest.mark.parametrize("is_table", [False, True])
def test_linear_whose_matrix_is_no_weight_is_a_product(is_table: bool, tmp_path: Path) -> None:
    x, config, model = torch.randn(3, 5, 6), tmp_path / "config.json", Matrix(is_table).eval()
    amct.create_quant_config_fx(config, model, input_data=x)
    quantized = amct.create_quant_model_fx(config, model, input_data=x)
    with torch.no_grad():
        torch.testing.assert_close(quantized(x), model(x))
    calibrate(quantized, [(x,)])
    assert len(quantized.quantized_layers["linear"].record().activations) == 2
    assert_exact(quantized, tmp_path, [x])


def test_table_from_a_buffer_and_sizes_is_off_by_default(tmp_path: Path) -> None:
    quantize(RelativePositions(has_parameter=False).eval(), tmp_path, [(torch.randn(4, 7, 8),)])
    assert read_json(tmp_path / "config.json")["einsum"]["quant_enable"] is False


def test_entry_for_the_second_operand_is_left_out_where_that_is_a_weight(tmp_path: Path) -> None:
    definition = tmp_path / "simple.yaml"
    sides = f"[{_SIDE % 12}, {_SIDE % 8}]"
    definition.write_text(
        f"override_layer_types: [{{layer_type: operator.matmul, activation_quant_params: {sides}}}]\n"
    )
    amct.create_quant_config_fx(tmp_path / "config.json", Projection(), definition)
    layer = read_json(tmp_path / "config.json")["matmul"]
    assert [one["quantizer_args"]["num_bits"] for one in layer["activation_quant_params"]] == [12]
    assert layer["weight_quant_params"]["quantizer"] == "ArqWeightFakeQuantize"


def test_three_entries_are_too_many_for_a_product(tmp_path: Path) -> None:
    definition = tmp_path / "simple.yaml"
    sides = f"[{_SIDE % 8}, {_SIDE % 8}, {_SIDE % 8}]"
    definition.write_text(f"override_layer_configs: [{{layer_name: matmul, activation_quant_params: {sides}}}]\n")
    with pytest.raises(ConfigError, match="has 3 entries"):
        amct.create_quant_config_fx(tmp_path / "config.json", Projection(), definition)


class LikeData(nn.Module):
    """Constants whose calls read size and type of the data only."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.make = nn.Conv2d(3, 4, 1), make

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.make(x) + self.make(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.new_full((1, 4, 1, 1), 0.3),
        lambda x: x.new_ones(4, x.size(2), 1),
        lambda x: x.new_tensor([0.7]),
        torch.zeros_like,
        lambda x: torch.full_like(x, 0.3),
    ],
)
@pytest.mark.parametrize("is_guided", [False, True])
def test_constant_made_like_the_data(tmp_path: Path, make: Callable[[Tensor], Tensor], is_guided: bool) -> None:
    model, x, config = LikeData(make).eval(), torch.randn(2, 3, 5, 5), tmp_path / "config.json"
    given = {"input_data": x} if is_guided else {}
    amct.create_quant_config_fx(config, model, **given)
    quantized = amct.create_quant_model_fx(config, model, **given)
    calibrate(quantized, [(x,)])
    amct.save_quant_model_fx(
        quantized, tmp_path / "net", x, {"dynamic_axes": {"x": {0: "n"}}}, golden_inputs=torch.randn(3, 3, 5, 5)
    )


def full_like(x: Tensor, factor: float) -> Tensor:
    """A user's function; only its name is that of torch's."""
    return x.abs() * factor


torch.fx.wrap("full_like")


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * full_like(x, 2.0)


def test_function_of_the_user_with_the_name_of_torch_s_is_no_constant(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 5, 5)
    model = OwnFunction().eval()
    quantized = quantize(model, tmp_path, [(x,)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)
    layer = quantized.quantized_layers["mul"]
    assert len(layer.record().activations) == 2, "both operands are data"
    (found,) = run_onnx(tmp_path / "net_float_model.onnx", -x)
    np.testing.assert_allclose(found, model(-x).detach().numpy(), rtol=1e-5, atol=1e-6)
