"""Operations that torch's TorchScript-based exporter lacks, in onnxruntime compared with torch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.backends.torchscript.torch_exporter import export_onnx


def run(module: nn.Module, x: torch.Tensor, **setting: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(export_onnx(module, (x,), setting))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return found


class Moved(nn.Module):
    def __init__(self, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> None:
        super().__init__()
        self.axes = source, destination

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(*self.axes)


@pytest.mark.parametrize("axes", [(1, -1), (-3, 0), ((1, -1), (0, 2)), ((0, 2), (-1, -2))])
def test_movedim(axes: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 5)
    np.testing.assert_array_equal(run(Moved(*axes), x), x.movedim(*axes).numpy())


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("norm", [nn.RMSNorm(6), nn.RMSNorm((4, 6), eps=0.1, elementwise_affine=False)], ids=str)
def test_rms_norm(norm: nn.RMSNorm, opset: int) -> None:
    x = torch.randn(2, 4, 6)
    found = run(norm.eval(), x, opset_version=opset)
    np.testing.assert_allclose(found, norm(x).detach().numpy(), rtol=1e-6, atol=1e-6)
