"""Operations that torch's TorchScript-based exporter lacks, in onnxruntime compared with torch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.backends.torchscript.torch_exporter import export_onnx


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("norm", [nn.RMSNorm(6), nn.RMSNorm((4, 6), eps=0.1, elementwise_affine=False)], ids=str)
def test_rms_norm(norm: nn.RMSNorm, opset: int) -> None:
    x = torch.randn(2, 4, 6)
    session = onnxruntime.InferenceSession(export_onnx(norm.eval(), (x,), {"opset_version": opset}))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, norm(x).detach().numpy(), rtol=1e-6, atol=1e-6)
