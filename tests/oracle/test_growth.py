"""Nodes whose result would be far larger than their inputs are refused before memory is taken."""

from __future__ import annotations

import numpy as np
import pytest

from hotwheels.amct_pytorch.errors import UnsupportedModelError

BIG = 1 << 20
NODES = {
    "ConstantOfShape": ("y = ConstantOfShape (s)", {"s": np.array([BIG, BIG])}),
    "Expand": ("y = Expand (x, s)", {"s": np.array([BIG, BIG, 2])}),
    "Tile": ("y = Tile (x, s)", {"s": np.array([BIG, BIG])}),
    "Range": ("y = Range (a, b, c)", {"a": np.array(0.0), "b": np.array(1e15), "c": np.array(0.5)}),
    "Pad": ("y = Pad (x, s)", {"s": np.array([0, BIG, BIG, BIG])}),
    "Add": ("y = Add (a, b)", {"a": np.zeros((BIG, 1), np.float32), "b": np.zeros((1, BIG), np.float32)}),
    "MatMul": ("y = MatMul (a, b)", {"a": np.zeros((BIG, 1), np.float32), "b": np.zeros((1, BIG), np.float32)}),
    "Gather": ("y = Gather (a, b)", {"a": np.zeros((2, BIG), np.float32), "b": np.zeros(BIG, np.int64)}),
    "GatherND": ("y = GatherND (a, b)", {"a": np.zeros((2, BIG), np.float32), "b": np.zeros((BIG, 1), np.int64)}),
    "OneHot": ("y = OneHot (a, b, c)", {"a": np.arange(99), "b": np.array(BIG), "c": np.zeros(2, np.float32)}),
    "TopK": ("y, z = TopK (a, b)", {"a": np.zeros(9, np.float32), "b": np.array([BIG * BIG])}),
    "Einsum": ('y = Einsum <equation = "a,b->ab"> (a, b)', {name: np.zeros(BIG, np.float32) for name in "ab"}),
    "ConvTranspose": (
        "y = ConvTranspose <strides = [50000, 50000]> (a, b)",
        {"a": np.zeros((1, 1, 4, 4), np.float32), "b": np.zeros((1, 1, 1, 1), np.float32)},
    ),
    "Resize": ("y = Resize (x, , , s)", {"s": np.array([BIG, BIG])}),
}


@pytest.mark.parametrize(("body", "constants"), NODES.values(), ids=NODES)
def test_growth_is_refused(body: str, constants: dict[str, np.ndarray], deploy, param) -> None:
    floats = "".join([param.float_input] * body.count("(x"))
    layers = {"node": floats} if floats else {}
    interpreter = deploy(f'g (float[1, 2] x) => (float y) {{ ["node"] {body} }}', layers, constants)
    with pytest.raises(UnsupportedModelError, match=r"its result would have [\d,]+ elements; at most 67,108,864"):
        interpreter.run({"x": np.zeros((1, 2), np.float32)})
