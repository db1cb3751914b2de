"""The fake-quant model in onnxruntime, an independent runtime, with its integer kernels, compared with real_quant.

The shares are printed (pytest -s); docs/exactness.md lists them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.report.tensors import load_tensors
from tests.support.exact_nets import NETS
from tests.support.exact_static import images, quantized_net

# A layer of the runtime may be one step off, and all that reads it with it: attention adds it up (Swin: 81 %, 6 steps).
_SHARE_EQUAL = 0.75
_MOST_STEPS = 10.0


@pytest.mark.parametrize("name", NETS)
def test_runtime_agrees_in_steps_of_the_grids(name: str, tmp_path: Path) -> None:
    quantized, x = quantized_net(name, "all", tmp_path), images()
    amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    runtime, ours = (load_tensors(kind, tmp_path / "net", [x.numpy()]) for kind in ("onnxruntime", "real_quant"))
    apart = np.concatenate([_steps_apart(layer, runtime, ours) for layer in runtime.results if layer in ours.results])
    share, worst = float(np.mean(apart < 0.5)), float(apart.max())
    print(f"| {name} | {len(runtime.results)} | {share:.3%} | {np.mean(apart < 1.5):.3%} | {worst:.0f} |")
    assert share >= _SHARE_EQUAL
    assert worst <= _MOST_STEPS


def _steps_apart(layer, runtime, ours) -> np.ndarray:
    """Both on the grid behind the layer; the runtime's results are there already."""
    step, left, right = runtime.steps[layer], runtime.results[layer], ours.results[layer]
    return np.abs(left - np.clip(np.rint(right / step) * step, left.min(), left.max())).reshape(-1) / step
