"""The chip's operators, and operators to which no torch function is exported, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

Deploy = Callable[..., Interpreter]
X = np.random.default_rng(5).normal(size=(2, 3, 4, 6)).astype(np.float32)
GRID = np.random.default_rng(6).uniform(-1.3, 1.3, size=(2, 5, 3, 2)).astype(np.float32)


def run(deploy: Deploy, param: Any, node: str, constants: dict[str, Any], **inputs: np.ndarray) -> np.ndarray:
    names = ", ".join(f"float[a{at}, b, c, d] {name}" for at, name in enumerate(inputs))
    net = deploy(f'g ({names}) => (float y) {{ ["n"] y = {node} }}', {"n": param.float_input * len(inputs)}, constants)
    return net.run(inputs).outputs["y"]


@pytest.mark.parametrize("axis", [-3, 1, -1])
def test_layer_norm_is_along_one_axis(deploy: Deploy, param: Any, axis: int) -> None:
    size = X.shape[axis]
    weight, bias = np.linspace(0.5, 2, size, dtype=np.float32), np.linspace(-1, 1, size, dtype=np.float32)
    node = f"custom_domain.LayerNorm<dim = {axis}, epsilon = 1e-5>(x, w, b)"
    found = run(deploy, param, node, {"w": weight, "b": bias}, x=X)
    moved = torch.from_numpy(X).double().movedim(axis, -1)
    expected = F.layer_norm(moved, (size,), torch.from_numpy(weight).double(), torch.from_numpy(bias).double())
    np.testing.assert_allclose(found, expected.movedim(-1, axis).numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("approximate", "torchs"), [("tanh", "tanh"), ("none", "none"), ("better_approximation", "none")]
)
def test_gelu(deploy: Deploy, param: Any, approximate: str, torchs: str) -> None:
    found = run(deploy, param, f'custom_domain.Gelu<approximate = "{approximate}">(x)', {}, x=X)
    np.testing.assert_allclose(
        found, F.gelu(torch.from_numpy(X).double(), approximate=torchs).numpy(), rtol=1e-6, atol=1e-9
    )


def test_global_warp_is_the_nearest_pixel(deploy: Deploy, param: Any) -> None:
    found = run(deploy, param, "custom_domain.GlobalWarp(x, grid)", {}, x=X, grid=GRID)
    np.testing.assert_array_equal(found, warped(X))


def test_warp_sees_its_region_only(deploy: Deploy, param: Any) -> None:
    found = run(deploy, param, "custom_domain.Warp<roi = [1, 0, 5, 3]>(x, grid)", {}, x=X, grid=GRID)
    np.testing.assert_array_equal(found, warped(X[:, :, 0:3, 1:5]))


def warped(x: np.ndarray) -> np.ndarray:
    image, grid = torch.from_numpy(x).double(), torch.from_numpy(GRID).double()
    return F.grid_sample(image, grid, mode="nearest", padding_mode="border", align_corners=True).float().numpy()


def test_slices_go_backwards_to_the_first_element(deploy: Deploy, param: Any) -> None:
    constants = {name: np.array([value]) for name, value in (("s", -1), ("e", -(2**63) + 1), ("a", 3), ("t", -2))}
    np.testing.assert_array_equal(run(deploy, param, "Slice(x, s, e, a, t)", constants, x=X), X[..., ::-2])


def test_integers_are_divided_as_in_c(deploy: Deploy, param: Any) -> None:
    graph = 'g (int64[4] x) => (int64[4] y) { ["n"] y = Div(x, d) }'
    net = deploy(graph, {"n": param.float_input}, {"d": np.array(2)})
    assert net.run({"x": np.array([-3, -2, 3, 5])}).outputs["y"].tolist() == [-1, -1, 1, 2]


def test_space_to_depth_undoes_depth_to_space(deploy: Deploy, param: Any) -> None:
    node = 'DepthToSpace<blocksize = 2, mode = "DCR">(x)'
    up = run(deploy, param, node, {}, x=np.arange(32, dtype=np.float32).reshape(1, 8, 2, 2))
    assert up[0, 0].ravel().tolist() == [0, 8, 1, 9, 16, 24, 17, 25, 2, 10, 3, 11, 18, 26, 19, 27]
    down = run(deploy, param, "SpaceToDepth<blocksize = 2>(x)", {}, x=up)
    assert down.ravel().tolist() == list(range(32))


def test_a_hardsigmoid_by_one_sixth_is_exact(deploy: Deploy, param: Any) -> None:
    # In float32 1/6 is 0.16666667163; with it x = 2 - 2^-20 would be 3e-9 too large, which a fine grid may see.
    graph = 'g (float[1] x) => (float[1] y) { ["n"] y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) }'
    net = deploy(graph, {"n": param.float_input})
    found = net.run({"x": np.array([2 - 2**-20], dtype=np.float32)}, keep_values=True).values["n"]
    assert found.tolist() == [(5 - 2**-20) / 6]
