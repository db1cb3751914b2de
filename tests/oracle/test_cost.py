"""Nodes that need too much memory or time are refused before they begin."""

from __future__ import annotations

import numpy as np
import pytest

from hotwheels.amct_pytorch.errors import UnsupportedModelError
from hotwheels.amct_pytorch.oracle.budget import Budget
from hotwheels.amct_pytorch.oracle.cost import Cost
from hotwheels.amct_pytorch.oracle.deploy_pair import Graph, Node
from hotwheels.amct_pytorch.oracle.digest import deploy_paths
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

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
    "Conv": ("y = Conv (a, b)", {"a": np.zeros((1, 1, 1200, 1200), "f4"), "b": np.ones((64, 1, 1, 1), "f4")}),
    "Conv with many taps": (
        "y = Conv <pads = [2500, 2500, 2500, 2500]> (a, b)",
        {"a": np.zeros((1, 1, 9, 9), "f4"), "b": np.ones((1, 1, 5000, 5000), "f4")},
    ),
    "AveragePool": (
        "y = AveragePool <kernel_shape = [1], strides = [999999999], pads = [999999999, 999999999]> (a)",
        {"a": np.zeros((1, 1, 9), "f4")},
    ),
    "GridSample": (
        "y = GridSample (a, b)",
        {"a": np.zeros((1, 128, 2, 2), "f4"), "b": np.zeros((1, 1, BIG, 2), "f4")},
    ),
    "ScatterND": ("y = ScatterND (a, b, a)", {"a": np.zeros(3 * BIG, "f4"), "b": np.zeros((3 * BIG, 1), np.int64)}),
    "Reshape to many axes": ("y = ConstantOfShape (s)", {"s": np.full(BIG, BIG)}),
    "Resize": ("y = Resize (x, , , s)", {"s": np.array([BIG, BIG])}),
}


@pytest.mark.parametrize(("body", "constants"), NODES.values(), ids=NODES)
def test_growth_is_refused(body: str, constants: dict[str, np.ndarray], deploy, param) -> None:
    floats = "".join([param.float_input] * body.count("(x"))
    layers = {"node": floats} if floats else {}
    interpreter = deploy(f'g (float[1, 2] x) => (float y) {{ ["node"] {body} }}', layers, constants, opset=16)
    with pytest.raises(
        UnsupportedModelError, match=r"a run needs .* at most .* are taken|a shape of 1,048,576 numbers"
    ):
        interpreter.run({"x": np.zeros((1, 2), np.float32)})


CHAIN = 'g (float[1, 2] x, int64[1] s) => (float y) { ["a"] c = ConstantOfShape (s) ["b"] y = Erf (c) }'


def test_what_is_held_counts_and_trusted_files_have_no_limit(pair, param) -> None:
    prefix = pair(CHAIN, {"a": param.float_input, "b": param.float_input})
    paths, inputs = deploy_paths(prefix), {"x": np.zeros((1, 2), np.float32), "s": np.array([1 << 20])}
    assert Interpreter(*paths).run(inputs).outputs["y"].shape == (1 << 20,)
    with pytest.raises(UnsupportedModelError, match=r"'b' .Erf.: up to here a run needs 684 MB of memory"):
        Interpreter(*paths).run_to_error(inputs, held=600_000_000)
    result, error = Interpreter(*paths, is_limited=False).run_to_error(inputs, held=600_000_000)
    assert error is None
    assert result.outputs["y"].shape == (1 << 20,)


def test_values_that_are_kept_count_once(pair, param) -> None:
    prefix = pair(CHAIN, {"a": param.float_input, "b": param.float_input})
    inputs = {"x": np.zeros((1, 2), np.float32), "s": np.array([1 << 20])}
    result, error = Interpreter(*deploy_paths(prefix)).run_to_error(inputs, held=583_000_000, keep_values=True)
    assert error is None
    assert [one.dtype for one in result.values.values()] == [np.float64, np.float64]


def test_work_adds_up() -> None:
    node = Node(name="n", op_type="Relu")
    budget = Budget(Graph(nodes=(node,), constants={}, inputs={}, outputs=()))
    for _ in range(25):
        budget.spend(node, Cost(memory=0, work=1e9))
    with pytest.raises(UnsupportedModelError, match=r"'n' .Relu.: up to here a run needs 26,000,000,000 operations"):
        budget.spend(node, Cost(memory=0, work=1e9))
