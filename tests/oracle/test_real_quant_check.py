"""Golden files hold real_quant's integers: a pair that computes others is not saved (spec 10.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn.integer_layer import IntegerLayer
from hotwheels.amct_pytorch.oracle.digest import read_golden
from hotwheels.amct_pytorch.oracle.interpreter import Result
from hotwheels.amct_pytorch.oracle.real_quant_check import RealQuantIntegers, check_against_real_quant
from hotwheels.amct_pytorch.workflows.golden import real_quant_integers
from tests.support.fx_path import quantize
from tests.support.integer_trace import trace_integers

EDGES = np.arange(200, dtype=np.int32).reshape(2, 100) - 100
SUMS = EDGES * 7


def result(edges: Any = EDGES, sums: Any = SUMS) -> Result:
    return Result(outputs={}, edges={"fc": (edges,)}, sums={"fc": sums}, values={})


def real(edges: Any = EDGES, sums: Any = SUMS, has_float_sums: bool = True) -> RealQuantIntegers:
    edges = {"dead": {0: SUMS}, "fc": {0: edges}}
    return RealQuantIntegers(edges=edges, sums={"fc": sums}, has_float_sums=has_float_sums)


def changed(array: Any, count: int, by: int) -> Any:
    other = array.copy()
    other.reshape(-1)[:count] += by
    return other


class TestCheck:
    def test_equal_integers(self) -> None:
        check_against_real_quant(result(), real())
        check_against_real_quant(result(edges=EDGES[:, None]), real())

    def test_another_accumulator(self) -> None:
        with pytest.raises(amct.ExportError, match=r"accumulator of layer 'fc' at \[0, 0\] is -699; .* it is -700"):
            check_against_real_quant(result(), real(sums=changed(SUMS, 1, 1)))

    @pytest.mark.parametrize(("count", "by"), [(1, 2), (5, 1)])
    def test_another_input(self, count: int, by: int) -> None:
        with pytest.raises(amct.ExportError, match=f"input 0 of layer 'fc' .* first of {count} elements of 200"):
            check_against_real_quant(result(), real(edges=changed(EDGES, count, by)))

    def test_few_elements_beside_a_tie(self) -> None:
        check_against_real_quant(result(), real(edges=changed(EDGES, 4, 1), sums=SUMS + 1))
        with pytest.raises(amct.ExportError, match="first of 4 elements of 200"):
            check_against_real_quant(result(), real(edges=changed(EDGES, 4, 1), has_float_sums=False))

    def test_another_shape(self) -> None:
        with pytest.raises(amct.ExportError, match=r"has the shape \[2, 100\]; in the pair: none"):
            check_against_real_quant(result(edges=EDGES[:1]), real())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x).relu().mean((2, 3)))
        return y


def test_a_golden_file_holds_what_torch_computes(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, 6)
    quantized = quantize(Net().eval(), tmp_path, [(x,)])
    amct.enable_quantization(quantized, fake_quant=True)
    quantized.train()
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)
    assert quantized.training and all(layer.watcher is None for layer in quantized.quantized_layers.values())
    amct.enable_quantization(quantized.eval(), real_quant=True)
    with torch.no_grad(), trace_integers(quantized) as trace:
        quantized(x)
    golden = read_golden(tmp_path / "net_golden.npz").tensors
    sums = {place.layer: one.values for place, one in golden.items() if place.kind == "accumulator"}
    assert sums.keys() == trace.sums.keys() == {"a", "b"}
    for name, values in sums.items():
        assert np.array_equal(np.squeeze(values), np.squeeze(trace.sums[name].numpy())), name


class WithFloat(Net):
    def __init__(self, squeeze: Any) -> None:
        super().__init__()
        self.squeeze = squeeze

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.squeeze(self.a(x).relu().mean((2, 3))))
        return y


def product_in_float(x: Tensor) -> Tensor:
    return torch.conv3d(x[:, :, None, None, None], torch.ones(4, 4, 1, 1, 1)).flatten(1)


@pytest.mark.parametrize(
    ("squeeze", "has_float_sums"), [(torch.sigmoid, False), (nn.Sigmoid(), False), (product_in_float, True)]
)
def test_float_sums_are_known(tmp_path: Path, squeeze: Any, has_float_sums: bool) -> None:
    x = torch.randn(2, 3, 6, 6)
    quantized = quantize(WithFloat(squeeze).eval(), tmp_path, [(x,)])
    assert real_quant_integers(quantized, (x,)).has_float_sums is has_float_sums


def test_a_pair_that_is_not_real_quant_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 6, 6)
    quantized = quantize(Net().eval(), tmp_path, [(x,)])
    right = IntegerLayer.accumulated
    monkeypatch.setattr(IntegerLayer, "accumulated", lambda self, sums, step: right(self, sums + 1, step))
    with pytest.raises(amct.ExportError, match=r"real_quant computes in PyTorch on golden_inputs: .* layer 'a'"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)
    assert not list(tmp_path.glob("net*"))


class Flattened(Net):
    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        y: Tensor = self.b(self.a(x).reshape(n, 4, -1).mean(2)) + c
        return y


def test_other_sizes_than_those_of_the_files_are_named(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, 6)
    quantized = quantize(Flattened().eval(), tmp_path, [(x,)])
    message = (
        r"golden_inputs: 'x' is \[2, 3, 6, 6\], in input_data \[1, 3, 6, 6\]\. .*\n?.*"
        r"name the axis in onnx_export_setting\['dynamic_axes'\]"
    )
    with pytest.raises(amct.AmctError, match=message):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x[:1], golden_inputs=x)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x[:1], {"dynamic_axes": {"x": {0: "n"}}}, golden_inputs=x)
