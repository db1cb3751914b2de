"""A model taken through one path, from the configuration to the files, against the user's own model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.batches.outputs import output_tensors
from hotwheels.amct_pytorch.torch_private import pytree

PATHS = ("fx", "fx with input_data", "dynamic")
_FLOAT, _FAKE = 1e-3, 0.1  # largest difference over the largest value: float rounding; some steps of 8 bits
_ZERO = 1e-3  # added to the largest value, since an output that should be zero is rounding noise

Call = tuple[Any, ...]  # as input_data: a dict in the last place may hold keyword arguments


def take(model: nn.Module, calls: Sequence[Call], path: str, folder: Path, axes: Any = None) -> None:
    """Takes ``model`` through ``path`` with the first of ``calls``; all of them are compared.

    The float state and the float file are compared with ``model``; the fake_quant file, in a default session, with the
    fake_quant state; the pair with real_quant, by golden inputs. ``axes`` are the dynamic axes of the files.

    Raises:
      AssertionError: Something computes other values than the user's model.
      AmctError: The model is refused.
    """
    expected = [tensors(model, call) for call in calls]
    if path == "dynamic":
        fake = _take_dynamic(model, calls, folder, axes)
        float_file = folder / "net.onnx"
    else:
        fake = _take_fx(model, calls, expected, folder, axes, has_example=path == PATHS[1])
        float_file = folder / "net_float_model.onnx"
    for call, values in zip(calls, expected, strict=True):
        assert_near(run_file(float_file, call), values, _FLOAT, f"the float file with the batch {batch_of(call)}")
    found = run_file(folder / "net_fake_quant_model.onnx", calls[0])
    assert_near(found, fake, _FAKE, "the fake_quant file")


def _take_fx(
    model: nn.Module, calls: Sequence[Call], expected: list[list[Tensor]], folder: Path, axes: Any, has_example: bool
) -> list[Tensor]:
    config, given = folder / "config.json", {"input_data": calls[0]} if has_example else {}
    amct.create_quant_config_fx(config, model, **given)
    quantized = amct.create_quant_model_fx(config, model, **given)
    for call, values in zip(calls, expected, strict=True):
        assert_near(tensors(quantized, call), values, _FLOAT, "the float state")
    amct.enable_quantization(quantized, calibration=True)
    tensors(quantized, calls[0])
    amct.enable_quantization(quantized, fake_quant=True)
    fake = tensors(quantized, calls[0])
    setting = {} if axes is None else {"dynamic_axes": axes}
    amct.save_quant_model_fx(quantized, folder / "net", calls[0], setting, golden_inputs=calls[-1 if axes else 0])
    return fake


def _take_dynamic(model: nn.Module, calls: Sequence[Call], folder: Path, axes: Any) -> list[Tensor]:
    config, record, given = folder / "config.json", folder / "record.txt", calls[0]
    amct.create_quant_config(config, model, given)
    quantized = amct.quantize_model(config, folder / "net.onnx", record, model, given, dynamic_axes=axes)
    tensors(quantized, given)
    fake = tensors(quantized, given)
    amct.save_model(folder / "net.onnx", record, folder / "net")
    return fake


@torch.no_grad()
def tensors(model: nn.Module, call: Call) -> list[Tensor]:
    """Returns what ``model`` gives for copies of ``call``."""
    args, kwargs = (call[:-1], call[-1]) if isinstance(call[-1], dict) else (call, {})
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
    return [one.clone() for one in output_tensors(model(*args, **kwargs))]


def batch_of(call: Call) -> int:
    return len(_tensors(call)[0])


def _tensors(call: Call) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(call) if isinstance(one, Tensor)]


def run_file(file: Path, call: Call) -> list[Tensor]:
    """Runs a file in a default session of onnxruntime."""
    session = onnxruntime.InferenceSession(file)
    feeds = {one.name: x.numpy() for one, x in zip(session.get_inputs(), _tensors(call), strict=True)}
    return [torch.from_numpy(np.asarray(one)) for one in session.run(None, feeds)]


def assert_near(found: list[Tensor], expected: list[Tensor], room: float, what: str) -> None:
    assert [one.shape for one in found] == [one.shape for one in expected], what
    for one, other in zip(found, expected, strict=True):
        largest = float(other.abs().max()) if other.numel() else 0.0
        difference = float((one.double() - other.double()).abs().max()) if other.numel() else 0.0
        assert difference <= room * (largest + _ZERO), f"{what}: off by {difference:.3g} of {largest:.3g}"
