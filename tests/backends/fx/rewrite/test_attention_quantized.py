from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.attention_nets import (
    HEADS,
    NETS,
    QUERIES,
    RECURRENT,
    WIDTH,
    Optional,
    Vit,
    assert_same,
    data,
    first,
    randomize,
    sequences,
)
from tests.support.exact_pair import assert_exact
from tests.support.fixtures import one_thread, seeded
from tests.support.fx_path import quantize, run_fake, run_float, run_onnx, run_real

__all__ = ["one_thread", "seeded"]


@pytest.mark.parametrize("name", [*NETS, *RECURRENT])
def test_quantized_net_is_saved_restored_and_run(name: str, tmp_path: Path) -> None:
    model = (NETS | RECURRENT)[name]().eval()
    x = data(name)
    before = copy.deepcopy(model.state_dict())
    quantized = quantize(model, tmp_path, [(x,), (data(name),)])
    with torch.no_grad():
        expected = first(model(x))
    assert_same(first(run_float(quantized, x)), expected)
    for result in (first(run_fake(quantized, x)), first(run_real(quantized, x))):
        assert (result - expected).norm() < 0.1 * expected.norm()  # 20 dB: the networks are tiny and random
    _check_files(quantized, tmp_path, x)
    _check_state(quantized, model, before, tmp_path, x)


def _check_files(quantized: nn.Module, folder: Path, x: Tensor) -> None:
    amct.save_quant_model_fx(quantized, folder / "net", x)
    found = run_onnx(folder / "net_fake_quant_model.onnx", x)[0]
    # Float32 sums of another order: no element may leave its step of about 1e-2.
    np.testing.assert_allclose(found, first(run_fake(quantized, x)).numpy(), atol=1e-5)


def _check_state(quantized: nn.Module, model: nn.Module, before: Mapping[str, Tensor], folder: Path, x: Tensor) -> None:
    state = quantized.state_dict()
    assert before.keys() <= state.keys()
    assert model.state_dict().keys() == before.keys()
    assert not any("packed" in key for key in state)
    torch.save(state, folder / "state.pth")
    fresh = copy.deepcopy(model)
    randomize(fresh)
    restored = amct.restore_quant_model_fx(folder / "config.json", fresh, folder / "state.pth")
    assert torch.equal(first(run_fake(restored, x)), first(run_fake(quantized, x)))


@pytest.mark.parametrize("name", NETS)
def test_every_integer_equals_the_oracle(name: str, tmp_path: Path) -> None:
    model = NETS[name]().eval()
    quantized = quantize(model, tmp_path, [(data(name),), (data(name),)])
    assert assert_exact(quantized, tmp_path, [data(name)]).sums


def test_attention_is_quantized(tmp_path: Path) -> None:
    layers = quantize(Vit().eval(), tmp_path, [(data("vit"),)]).quantized_layers
    block = "layers_0_self_attention"
    expected = {f"{block}_{one}" for one in ("q_proj", "k_proj", "v_proj", "out_proj", "matmul", "softmax", "matmul_1")}
    assert expected <= layers.keys()


def test_the_batch_size_is_free_in_the_file(tmp_path: Path) -> None:
    x = data("vit")
    quantized = quantize(Vit().eval(), tmp_path, [(x,)])
    setting = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, setting)
    found = run_onnx(tmp_path / "net_fake_quant_model.onnx", x[:1])[0]
    np.testing.assert_allclose(found, run_fake(quantized, x[:1]).numpy(), atol=1e-5)


def test_projection_that_is_off_is_exported_in_float(tmp_path: Path) -> None:
    off = {f"layers_0_self_attention_{one}_proj": {"quant_enable": False} for one in ("q", "out")}
    x = data("vit")
    quantized = quantize(Vit().eval(), tmp_path, [(x,)], off)
    _check_files(quantized, tmp_path, x)
    assert assert_exact(quantized, tmp_path, [x]).edges


def test_training_reaches_the_packed_parameter(tmp_path: Path) -> None:
    quantized = quantize(Vit().eval(), tmp_path, [(data("vit"),)]).train()
    amct.enable_quantization(quantized, fake_quant=True)
    parameters = dict(quantized.named_parameters())
    packed = parameters["layers.0.self_attention.in_proj_weight"]
    assert not any("packed" in name for name in parameters)
    before = packed.detach().clone()
    optimizer = torch.optim.SGD(parameters.values(), 0.1)
    quantized(data("vit")).square().sum().backward()
    assert all(one.abs().sum() > 0 for one in packed.grad.chunk(3))
    optimizer.step()
    projection = quantized.get_submodule("layers.0.self_attention.k_proj")
    assert not torch.equal(packed, before)
    assert torch.equal(projection.weight, packed[WIDTH : 2 * WIDTH])


def test_a_copy_has_parameters_of_its_own(tmp_path: Path) -> None:
    quantized = quantize(Vit().eval(), tmp_path, [(data("vit"),)])
    copied = copy.deepcopy(quantized).double()
    attention = copied.get_submodule("layers.0.self_attention")
    assert attention.q_proj.packed_weight is attention.in_proj_weight
    assert attention.in_proj_weight is not quantized.get_submodule("layers.0.self_attention").in_proj_weight
    assert quantized.get_submodule("layers.0.self_attention").in_proj_weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder"])
def test_attention_may_be_the_whole_model(name: str, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True)
    model = {
        "MultiheadAttention": layer.self_attn,
        "TransformerEncoderLayer": layer,
        "TransformerEncoder": nn.TransformerEncoder(layer, 2),
    }[name].eval()
    inputs = (sequences(),) * (3 if name == "MultiheadAttention" else 1)
    quantized = quantize(model, tmp_path, [inputs])
    with torch.no_grad():
        assert_same(run_float(quantized, *inputs), model(*inputs))
    assert model.state_dict().keys() <= quantized.state_dict().keys()
    assert assert_exact(quantized, tmp_path, inputs).sums


def test_mask_in_calibration_names_the_softmax_to_skip(tmp_path: Path) -> None:
    batch = (sequences(), torch.ones(QUERIES, QUERIES, dtype=torch.bool).triu(1))
    with pytest.raises(amct.CalibrationError, match=r"Layer 'attn_softmax': the observed tensor .* holds NaN or inf"):
        quantize(Optional().eval(), tmp_path, [batch])
    quantize(Optional().eval(), tmp_path, [batch], {"attn_softmax": {"quant_enable": False}})


def test_attention_without_a_formula_is_one_float_node(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True)
            self.fc = nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.attn(x, x, x)[0])

    model, x = Net().eval(), sequences()
    reasons = {skip.name: skip.reason for skip in FxBackend(model, Registry()).graph().skips}
    assert "add_bias_kv" in reasons["attn"]
    quantized = quantize(model, tmp_path, [(x,)])
    _check_files(quantized, tmp_path, x)
