"""The fake_quant file opens in a default session for every mix of bits; the deploy bias is at its grid point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.fx_path import quantize, run_fake

ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "pool": lambda y: y,
    "transpose": lambda y: y.transpose(1, 2),
    "reshape": lambda y: y.reshape(1, 8, -1),
    "slice": lambda y: y.reshape(1, 8, -1)[:, :4],
    "mul": lambda y: y.reshape(1, 8, -1) * 0.5 + 1,
}


def _activation(bits: int) -> dict[str, Any]:
    arguments = {"num_bits": bits, "observer": "IFMRObserver"}
    return {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": arguments}]}


_W4 = {"weight_quant_params": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"num_bits": 4}}}
BITS = {"a8w8": {}, "a16w8": _activation(16), "a12w8": _activation(12), "a8w4": _W4, "a4w4": {**_activation(4), **_W4}}


class Net(nn.Module):
    """A convolution of some bits, and what is behind it in 8 bits."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.a, self.pool, self._end = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), end

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return ENDS[self._end](self.pool(y) if self._end == "pool" else y)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("bits", BITS)
def test_default_session_opens_every_mix_of_bits(bits: str, end: str, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    quantized = quantize(Net(end).eval(), tmp_path, [(x,)], {"a": BITS[bits]})
    amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    session = onnxruntime.InferenceSession(str(tmp_path / "net_fake_quant_model.onnx"))
    (found,) = session.run(None, {"x": x.numpy()})
    expected = run_fake(quantized, x).numpy()
    # Fused integer kernels may be one step of a grid off (spec 10.5); a range has 15 steps (4 bits) or 255.
    step = np.ptp(expected) / (15 if bits.startswith("a4") else 255)
    assert np.abs(found - expected).max() <= step * 1.01


def test_a_reader_in_float64_finds_the_integers_of_the_bias(tmp_path: Path) -> None:
    model, x = nn.Conv2d(3, 64, 1).eval(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        model.bias.copy_(torch.linspace(-300.0, 300.0, 64))
    quantized = quantize(nn.Sequential(model), tmp_path, [(x,)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    graph = onnx.load(tmp_path / "net_deploy_model.onnx").graph
    (conv,) = (node for node in graph.node if node.op_type == "Conv")
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    record = read_record(tmp_path / "net_scale_offset_record.txt").layers[conv.name]
    assert record.weight is not None
    step = record.activations[0].scale * np.array(record.weight.scale, dtype=np.float64)
    steps = constants[conv.input[2]].astype(np.float64) / step
    expected = np.rint(model.bias.detach().double().numpy() / step)
    assert np.array_equal(np.rint(steps), expected)
    # Half a unit in the last place of a float32, 24 bits: all that keeps the bias from being the grid point itself.
    assert (np.abs(steps - expected) <= np.abs(expected) * 2.0**-24 * (1 + 1e-6)).all()
