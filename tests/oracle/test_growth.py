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
    "Resize": ("y = Resize (x, , , s)", {"s": np.array([BIG, BIG])}),
}


@pytest.mark.parametrize(("body", "constants"), NODES.values(), ids=NODES)
def test_growth_is_refused(body: str, constants: dict[str, np.ndarray], deploy, param) -> None:
    floats = "".join([param.float_input] * body.count("(x"))
    layers = {"node": floats} if floats else {}
    interpreter = deploy(f'g (float[1, 2] x) => (float y) {{ ["node"] {body} }}', layers, constants)
    with pytest.raises(UnsupportedModelError, match=r"its result would have [\d,]+ elements; at most 67,108,864"):
        interpreter.run({"x": np.zeros((1, 2), np.float32)})
