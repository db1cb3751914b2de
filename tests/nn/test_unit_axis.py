"""1-D operations as 2-D operations on a unit axis, compared with torch's 1-D operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn.unit_axis import image_form, written_as_images
from tests.support.fx_path import calibrate, make_config

torch.manual_seed(0)
X, KERNEL = torch.randn(2, 4, 11), torch.randn(4, 2, 3)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "conv1d": (F.conv1d, (X, KERNEL, torch.randn(4), 2, 1), {"dilation": (2,), "groups": 2}),
    "conv1d same": (F.conv1d, (X, KERNEL), {"padding": "same", "groups": 2}),
    "conv_transpose1d": (F.conv_transpose1d, (X, KERNEL, None, (2,), 1, 1, 2), {}),
    "max_pool1d": (F.max_pool1d, (X, 3), {"stride": 2, "padding": 1, "ceil_mode": True}),
    "max_pool1d indices": (F.max_pool1d, (X, 3), {"return_indices": True}),
    "torch.max_pool1d": (torch.max_pool1d, (X, [3], [2]), {}),
    "max_pool1d_with_indices": (F.max_pool1d_with_indices, (X, 3, 2), {}),
    "torch.max_pool1d_with_indices": (torch.max_pool1d_with_indices, (X, 3), {}),
    "avg_pool1d": (F.avg_pool1d, (X, (3,), (2,), (1,), False, False), {}),
    "avg_pool1d without stride": (F.avg_pool1d, (X, 3, ()), {}),
    "adaptive_avg_pool1d": (F.adaptive_avg_pool1d, (X, 4), {}),
    "adaptive_max_pool1d": (F.adaptive_max_pool1d, (X, (3,)), {}),
    "adaptive_max_pool1d indices": (F.adaptive_max_pool1d, (X, 3, True), {}),
    "adaptive_max_pool1d_with_indices": (F.adaptive_max_pool1d_with_indices, (X, 3), {}),
    "torch.adaptive_max_pool1d": (torch.adaptive_max_pool1d, (X, 1), {}),
    "without a batch": (F.conv1d, (X[0], KERNEL), {"groups": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_image_form_computes_the_same(name: str) -> None:
    function, args, kwargs = CASES[name]
    form = image_form(function)
    assert form is not None
    torch.testing.assert_close(form(*args, **kwargs), function(*args, **kwargs), rtol=1e-5, atol=1e-5)


def test_images_have_no_form() -> None:
    assert image_form(F.conv2d) is None


class _Convolutions(TorchDispatchMode):
    """Notes the number of dimensions of each kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append(args[1].dim())
        return func(*args, **(kwargs or {}))


def test_modules_call_images_inside_the_block() -> None:
    module = nn.Conv1d(4, 4, 3, groups=2)
    with torch.no_grad(), _Convolutions() as convolutions:
        plain = module(X)
        with written_as_images():
            image = module(X)
    assert convolutions.seen == [3, 4]
    torch.testing.assert_close(image, plain, rtol=1e-5, atol=1e-5)


class _Net(nn.Module):
    def __init__(self, axes: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if axes == 1 else (nn.Conv2d, nn.BatchNorm2d)
        up = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d

        def sized(one: int, unit: int) -> Any:
            return one if axes == 1 else (unit, one)

        self.conv, self.norm, self.act = conv(4, 6, sized(3, 1), padding=sized(1, 0)), norm(6), nn.ReLU()
        self.up, self.up_norm = up(6, 4, sized(2, 1), stride=sized(2, 1), groups=2), norm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.up_norm(self.up(self.act(self.norm(self.conv(x)))))


def _trained(model: nn.Module, x: Tensor, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of three steps in fake_quant, BatchNorms in training mode, and the state behind them."""
    folder.mkdir()
    quantized = amct.create_quant_model_fx(make_config(model, folder), model)
    calibrate(quantized, [(x,)])
    amct.enable_quantization(quantized, calibration=False, fake_quant=True)
    optimizer = torch.optim.SGD(quantized.train().parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = (quantized(x) - x.flip(-1).repeat_interleave(2, -1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses, {name: value for name, value in quantized.state_dict().items() if name in model.state_dict()}


def test_sequences_train_as_images_of_one_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    line = _Net(1)
    image = _Net(2)
    image.load_state_dict({k: v.unsqueeze(-2) if v.dim() == 3 else v for k, v in line.state_dict().items()})
    losses, state = _trained(line, X, tmp_path / "line")
    image_losses, image_state = _trained(image, X.unsqueeze(-2), tmp_path / "image")
    assert losses[-1] < losses[0]
    torch.testing.assert_close(losses, image_losses, rtol=1e-4, atol=0)
    for name, value in state.items():
        torch.testing.assert_close(value, image_state[name].reshape(value.shape), rtol=1e-3, atol=1e-4, msg=name)
