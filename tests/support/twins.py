"""Compares a model with its rewrite in plain modules: both must get the same grids, integers and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import quantize, run_fake, run_float, run_real


@dataclasses.dataclass(frozen=True)
class Twins:
    """One computation in two spellings.

    Attributes:
      spelled: Makes the model as its author wrote it.
      plain: Makes the same model, with the same values, of plain modules from the first one.
      layers: Name of each layer of the first model, and of its twin in the second.
      input_shape: Of one input.
      weight_parameters: Parameters of the first model which its weights are computed from.
    """

    spelled: Callable[[], nn.Module]
    plain: Callable[[nn.Module], nn.Module]
    layers: Mapping[str, str]
    input_shape: tuple[int, ...] = (2, 4, 9, 9)
    weight_parameters: tuple[str, ...] = ()


def assert_twins(twins: Twins, folder: Path) -> tuple[QuantGraphModule, QuantGraphModule]:
    """Demands the same of both models, in every mode and file; returns the quantized models."""
    torch.manual_seed(0)
    model = twins.spelled().eval()
    plain = twins.plain(model).eval()
    x, other = torch.randn(twins.input_shape), torch.randn(twins.input_shape)
    torch.testing.assert_close(plain(x), model(x))  # else the test compares two different models
    spelled, expected = (_quantized(one, folder / name, x) for one, name in ((model, "spelled"), (plain, "plain")))
    torch.testing.assert_close(run_float(spelled, other), model(other))  # a product is summed in another order
    assert set(spelled.quantized_layers) == set(twins.layers)
    assert not any(isinstance(spelled.get_submodule(path), _BatchNorm) for path in _called(spelled))
    _assert_same_settings(folder, twins.layers)
    for name, twin in twins.layers.items():
        mine, its = spelled.quantized_layers[name].record(), expected.quantized_layers[twin].record()
        assert [(one.index, one.offset, one.num_bits) for one in mine.activations] == [
            (one.index, one.offset, one.num_bits) for one in its.activations
        ]
        scales = ([one.scale for one in record.activations] for record in (mine, its))
        np.testing.assert_allclose(*scales, rtol=1e-5)  # sums in another order
        if its.weight is not None:
            assert mine.weight is not None
            np.testing.assert_allclose(mine.weight.scale, its.weight.scale, rtol=1e-5)
    torch.testing.assert_close(run_fake(spelled, other), run_fake(expected, other))
    torch.testing.assert_close(run_real(spelled, other), run_real(expected, other))
    assert_exact(spelled, folder / "spelled", [other])
    assert_exact(expected, folder / "plain", [other])
    files = (folder / name / "exact_fake_quant_model.onnx" for name in ("spelled", "plain"))
    mine, its = (_default_session(file, other) for file in files)
    np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)
    return spelled, expected


def assert_restores(twins: Twins, folder: Path) -> None:
    """Demands that the state of the quantized model, loaded into a fresh one, gives the same."""
    torch.manual_seed(0)
    x = torch.randn(twins.input_shape)
    saved = _quantized(twins.spelled().eval(), folder, x)
    expected = run_fake(saved, x)
    torch.save(saved.state_dict(), folder / "state.pt")
    restored = amct.restore_quant_model_fx(folder / "config.json", twins.spelled().eval(), folder / "state.pt")
    assert torch.equal(run_fake(restored, x), expected)


def assert_trains(twins: Twins, folder: Path) -> None:
    """Demands a gradient for every parameter that a weight is computed from, and another result after a step."""
    torch.manual_seed(0)
    x = torch.randn(twins.input_shape)
    quantized = _quantized(twins.spelled().eval(), folder, x)
    before = run_fake(quantized, x)
    quantized.train()
    quantized(x).square().mean().backward()
    named = dict(quantized.named_parameters())
    for name in twins.weight_parameters:
        gradient = named[name].grad
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
        with torch.no_grad():
            named[name] -= 0.1 * gradient
    quantized.eval()
    assert not torch.equal(run_fake(quantized, x), before)


def _called(model: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in model.graph.nodes if node.op == "call_module"]


def _quantized(model: nn.Module, folder: Path, x: Tensor) -> QuantGraphModule:
    folder.mkdir(exist_ok=True)
    return quantize(model, folder, [(x,)])


def _assert_same_settings(folder: Path, layers: Mapping[str, str]) -> None:
    mine, its = (read_json(folder / name / "config.json") for name in ("spelled", "plain"))
    for name, twin in layers.items():
        for section in (*mine[name]["activation_quant_params"], *its[twin]["activation_quant_params"]):
            section["quantizer_args"].pop("object_layer")
        assert mine[name] == its[twin]


def _default_session(path: Path, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
