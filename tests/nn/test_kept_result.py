"""A kept result: it is computed again after every change of its tensors, however the change was made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.core import native
from hotwheels.amct_pytorch.nn.kept_result import FingerprintedResult, KeptResult


class Counted:
    """A computation that counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, *tensors: Tensor | None) -> list[Tensor]:
        self.runs += 1
        return [2 * one for one in tensors if one is not None]


@torch.no_grad()
def test_the_result_of_equal_tensors_is_kept():
    kept, compute, x = KeptResult(), Counted(), torch.randn(3, 4)
    first = kept.get([x, None], (8,), compute)
    assert kept.get([x.clone(), None], (8,), compute) is first
    assert compute.runs == 1


def _through_data(x: nn.Parameter) -> None:
    x.data[0] += 1.0


def _through_numpy(x: nn.Parameter) -> None:
    x.detach().numpy()[0] += 1.0


def _in_place(x: nn.Parameter) -> None:
    x[0] += 1.0


def _by_other_data(x: nn.Parameter) -> None:
    x.data = x.data + 1.0


def _to_negative_zero(x: nn.Parameter) -> None:
    x[-1] = -0.0


@pytest.mark.parametrize("change", [_through_data, _through_numpy, _in_place, _by_other_data, _to_negative_zero])
@torch.no_grad()
def test_a_change_is_noticed(change: Callable[[nn.Parameter], None]):
    kept, compute, x = KeptResult(), Counted(), nn.Parameter(torch.tensor([1.0, 2.0, 0.0]))
    kept.get([x], (), compute)
    change(x)
    assert torch.equal(kept.get([x], (), compute)[0], 2 * x)
    assert compute.runs == 2


@torch.no_grad()
def test_other_settings_or_an_absent_tensor_are_noticed():
    kept, compute, x = KeptResult(), Counted(), torch.randn(3)
    for tensors, settings in (([x, x], 8), ([x, x], 4), ([x, None], 4), ([x[:2], None], 4)):
        kept.get(tensors, settings, compute)
    assert compute.runs == 4


@torch.no_grad()
def test_the_result_shares_no_memory_with_the_tensors():
    kept, x = KeptResult(), torch.ones(3)
    kept.get([x], (), lambda one: one)
    old, x = x, x.clone()
    old.fill_(5.0)
    assert torch.equal(kept.get([x], (), lambda one: one), torch.ones(3))


@pytest.mark.parametrize(
    ("tensor", "settings"),
    [(torch.zeros(70000), ()), (torch.zeros(3, dtype=torch.float64), ()), (torch.zeros(3), None)],
    ids=["large", "float64", "unknown settings"],
)
@torch.no_grad()
def test_some_results_are_not_kept(tensor: Tensor, settings: Any):
    kept, compute = KeptResult(), Counted()
    kept.get([tensor], settings, compute)
    kept.get([tensor], settings, compute)
    assert compute.runs == 2


def test_nothing_is_kept_with_gradients():
    kept, compute, x = KeptResult(), Counted(), torch.zeros(3, requires_grad=True)
    assert kept.get([x], (), compute)[0].requires_grad
    kept.get([x], (), compute)
    assert compute.runs == 2


@torch.no_grad()
def test_copies_start_without_a_result():
    kept, compute, x = KeptResult(), Counted(), torch.zeros(3)
    kept.get([x], (), compute)
    for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        twin.get([x], (), compute)
    assert compute.runs == 3


@pytest.mark.parametrize("change", [_through_data, _through_numpy, _in_place, _by_other_data, _to_negative_zero])
@pytest.mark.parametrize("size", [3, 100_000])
@torch.no_grad()
def test_a_fingerprinted_result_follows_its_tensors(change: Callable[[nn.Parameter], None], size: int):
    kept, x = FingerprintedResult(), nn.Parameter(torch.cat([torch.randn(size), torch.zeros(1)]))
    first = kept.get([x, None], (8,), lambda: [2 * x])
    again = kept.get([x, None], (8,), lambda: [2 * x])
    assert (again is first) == native.is_there()
    change(x)
    assert torch.equal(kept.get([x, None], (8,), lambda: [2 * x])[0], 2 * x)
    assert kept.get([x, None], (4,), lambda: ["other settings"]) == ["other settings"]
    assert kept.get([x, x], (4,), lambda: ["another tensor"]) == ["another tensor"]
    assert kept.get([x, x], None, lambda: ["unknown settings"]) == ["unknown settings"]
    assert copy.deepcopy(kept).get([x, x], (4,), lambda: ["a copy"]) == ["a copy"]
    assert pickle.loads(pickle.dumps(kept)).get([x, x], (4,), lambda: ["loaded"]) == ["loaded"]


# --- in a model ---


def _calibrated(tmp_path) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    x = torch.randn(2, 3, 6, 6)
    amct.create_quant_config_fx(tmp_path / "config.json", model)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(x)
    return quantized, x


def _double_weight(model: nn.Module) -> None:
    model.get_parameter("0.weight").data.mul_(2.0)


def _replace_weight(model: nn.Module) -> None:
    model.get_submodule("0").weight = nn.Parameter(model.get_parameter("0.weight") * -1.5)


def _step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD([model.get_parameter("0.weight")], lr=0.5)
    model.get_parameter("0.weight").grad = torch.ones_like(model.get_parameter("0.weight"))
    optimizer.step()


def _other_statistics(model: nn.Module) -> None:
    model.get_buffer("1.running_var").data.mul_(3.0)


def _other_range(model: nn.Module) -> None:
    for layer in model.amct_layers.children():
        layer.activation[0].clip_max.data.mul_(0.5)


def _other_eps(model: nn.Module) -> None:
    model.get_submodule("1").eps = 0.5


def _other_bias(model: nn.Module) -> None:
    model.get_parameter("3.bias").detach().numpy()[:] += 0.3


def _other_beta(model: nn.Module) -> None:
    model.get_parameter("1.bias").data[0] += 1.0


def _other_mean(model: nn.Module) -> None:
    model.get_buffer("1.running_mean").data[1] -= 1.0


def _other_stride(model: nn.Module) -> None:
    model.get_submodule("3").stride = (2, 2)


def _load(model: nn.Module) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["1.weight"] *= -2.0
    model.load_state_dict(state)


CHANGES = (_double_weight, _replace_weight, _step, _other_statistics, _other_range, _load)
MORE_CHANGES = (_other_eps, _other_bias, _other_beta, _other_mean, _other_stride)


@pytest.mark.parametrize("mode", ["fake_quant", "real_quant"])
@pytest.mark.parametrize("change", (*CHANGES, *MORE_CHANGES), ids=lambda one: one.__name__)
@torch.no_grad()
def test_a_changed_model_computes_like_a_fresh_one(tmp_path, change: Callable[[nn.Module], None], mode: str):
    model, x = _calibrated(tmp_path)
    amct.enable_quantization(model, **{mode: True})
    before = model(x)
    change(model)
    fresh = copy.deepcopy(model)
    found = model(x)
    assert torch.equal(found, fresh(x))
    assert found.shape != before.shape or not torch.equal(found, before)
