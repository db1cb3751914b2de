"""An exported float model is compared with the user's forward (spec 2.4): the tolerance, and the node that is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.oracle import float_run
from hotwheels.amct_pytorch.oracle.float_check import FLOOR, TOLERANCE, check_float_model
from tests.support.log_lines import LogLines, log_lines

__all__ = ["log_lines"]

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def parsed(body: str) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["" : 13]> net (float[N, 4] x) => (float[N, 4] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"{node.op_type.lower()}_of_{node.input[0]}"
    return ir.from_proto(model)


@dataclasses.dataclass
class Reference:
    """A model given as what it computes."""

    result: NDArray[Any]
    shaken: NDArray[Any] | None = None
    values: tuple[tuple[str, str, NDArray[Any]], ...] = ()

    def outputs(self) -> Sequence[NDArray[Any]]:
        return [self.result]

    def rounding(self) -> Sequence[NDArray[Any]]:
        return [self.result if self.shaken is None else self.shaken]

    def inner(self) -> Sequence[tuple[str, str, NDArray[Any]]]:
        return self.values


TWO_NODES = "h = Relu(x) y = Neg(h)"


@pytest.fixture(params=["onnxruntime", "oracle"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs each test in both runtimes."""
    if request.param == "oracle":
        monkeypatch.setattr(float_run.importlib.util, "find_spec", lambda name: None)
    else:
        pytest.importorskip("onnxruntime")
    return request.param


@pytest.mark.usefixtures("runner")
class TestComparison:
    """What counts as a difference."""

    def test_equal_model_passes(self) -> None:
        check_float_model(parsed(TWO_NODES), [X], Reference(-np.maximum(X, 0)))

    def test_first_wrong_node_is_named(self) -> None:
        values = (("h", "the result of layer 'act'", np.abs(X)), ("y", "the result of layer 'neg'", X))
        with pytest.raises(
            ExportError, match=r"(?s)output 'y' differs by up to .* the result of layer 'act', .*'relu_of_x'"
        ):
            check_float_model(parsed(TWO_NODES), [X], Reference(-np.abs(X), values=values))

    def test_rounding_is_no_difference(self) -> None:
        right = -np.maximum(X, 0)
        check_float_model(parsed(TWO_NODES), [X], Reference(right + 0.9 * TOLERANCE * np.abs(right).max()))
        with pytest.raises(ExportError, match="'neg_of_h'"):
            check_float_model(parsed(TWO_NODES), [X], Reference(right + 1.1 * TOLERANCE * np.abs(right).max()))

    def test_the_end_of_a_function_is_no_difference(self) -> None:
        x = np.full((1, 4), -62.0, dtype=np.float32)  # 7.7e-28 in torch, 0 in onnxruntime
        check_float_model(parsed("y = Sigmoid(x)"), [x], Reference(np.exp(x)))
        check_float_model(parsed("y = Sub(x, x)"), [x], Reference(np.full_like(x, 0.9 * FLOOR)))
        with pytest.raises(ExportError, match="output 'y' differs"):
            check_float_model(parsed("y = Sub(x, x)"), [x], Reference(np.full_like(x, 1.1 * FLOOR)))

    def test_what_rounding_does_to_this_network_is_no_difference(self) -> None:
        right = -np.maximum(X, 0)
        wrong = right.copy()
        wrong[0, 0] -= 1.0
        with pytest.raises(ExportError, match="differs by up to 1"):
            check_float_model(parsed(TWO_NODES), [X], Reference(wrong))
        check_float_model(parsed(TWO_NODES), [X], Reference(wrong, shaken=right))

    def test_not_a_number_at_the_same_place_is_equal(self) -> None:
        x = np.array([[-1.0, 4.0, 0.0, 1.0]], dtype=np.float32)
        with np.errstate(invalid="ignore"):
            check_float_model(parsed("y = Sqrt(x)"), [x], Reference(np.sqrt(x)))
        with pytest.raises(ExportError, match="not finite where it should be"):
            check_float_model(parsed("y = Sqrt(x)"), [x], Reference(np.sqrt(np.abs(x))))

    def test_another_shape_is_a_difference(self) -> None:
        with pytest.raises(ExportError, match="has another shape"):
            check_float_model(parsed(TWO_NODES), [X], Reference(-np.maximum(X, 0)[:2]))

    def test_operators_of_the_chip_are_run(self) -> None:
        model = ir.from_proto(
            onnx.parser.parse_model(
                '<ir_version: 8, opset_import: ["" : 13, "custom_domain" : 1]> net (float[N, 4] x) => (float[N, 4] y)'
                ' { y = custom_domain.Gelu <approximate = "tanh"> (x) }'
            )
        )
        expected = 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3)))
        check_float_model(model, [X], Reference(expected))
        with pytest.raises(ExportError, match="output 'y' differs"):
            check_float_model(model, [X], Reference(np.maximum(X, 0)))


def test_what_nobody_can_run_is_said(log_lines: LogLines) -> None:
    check_float_model(parsed("y = NoSuchOperator(x)"), [X], Reference(X))
    assert any("is not compared with the model in PyTorch" in line for line in log_lines.warnings)


@pytest.mark.usefixtures("runner")
def test_large_constants_are_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix that is transposed in memory, one that is not, and one that another operation reads as well."""
    monkeypatch.setattr(float_run, "_LARGE_TENSOR", 1)
    weight = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    model = parsed(
        "h = MatMul(x, w) k = MatMul(x, v) g = MatMul(x, u) a = Relu(u) b = ReduceSum(a) c = Add(h, k) "
        "d = Add(c, g) y = Add(d, b)"
    )
    constants = {"w": weight.T, "v": np.ascontiguousarray(weight.T), "u": weight.T}
    for name, array in constants.items():
        for node in model.graph:
            for at, value in enumerate(node.inputs):
                if value is not None and value.name == name:
                    if name not in model.graph.initializers:
                        value.const_value = ir.Tensor(array, name=name)
                        model.graph.register_initializer(value)
                    node.replace_input_with(at, model.graph.initializers[name])
    expected = 3 * (X @ weight.T) + np.maximum(weight, 0).sum()
    (found,) = float_run.run_float(model, [X]).values()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert [value.name for value in model.graph.inputs] == ["x"], "the model is not changed"
