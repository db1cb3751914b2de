"""Small deploy pairs and their expected results as literal values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hotwheels.amct_pytorch.errors import CalibrationError, ConfigError, RecordError, UnsupportedModelError
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

Deploy = Callable[..., Interpreter]

CONV_RELU_FC = """g (float[N, 1, 2, 2] x) => (float[N, 1] y) {
  ["conv"] c = Conv<pads = [1, 1, 0, 0], kernel_shape = [2, 2]>(x, w, b)
  ["/relu/Relu"] r = Relu(c)
  ["/flatten/Flatten"] f = Flatten(r)
  ["fc"] y = Gemm<transB = 1>(f, w2, b2)
}"""
CONSTANTS = {
    "w": np.array([[[[1, 2], [3, -4]]]], dtype=np.float32),
    "b": np.array([0.26], dtype=np.float32),
    "w2": np.array([[1, 1, 1, 2]], dtype=np.float32),
    "b2": np.array([1.0], dtype=np.float32),
}


def conv_relu_fc(param: Any) -> dict[str, str]:
    return {
        "conv": param.input(0.5, -1) + param.weight(0.25),
        "/relu/Relu": param.float_input,
        "/flatten/Flatten": param.float_input,
        "fc": param.input(2.0, 3) + param.weight(0.5),
    }


def test_a_chain_computes_what_the_specification_says(deploy: Deploy, param: Any) -> None:
    net = deploy(CONV_RELU_FC, conv_relu_fc(param), CONSTANTS)
    x = np.array([[[[1.0, 2.0], [-1.0, 0.25]]]], dtype=np.float32)
    result = net.run({"x": x}, keep_values=True)
    # x / 0.5 = 2, 4, -2, 0.5 (to even: 0); the padding is 0 after the offset was subtracted
    assert result.edges["conv"][0].tolist() == [[[[1, 3], [-3, -1]]]]
    # bias 0.26 / 0.125 = 2.08 -> 2; [[-4*2, 3*2-4*4], [2*2+8, 1*2+2*4+3*-2-0]] + 2
    assert result.sums["conv"].tolist() == [[[[-6, -8], [14, 6]]]]
    # relu of the sums * 0.125 in float64: 0, 0, 1.75, 0.75; / 2 = 0, 0, 0.875, 0.375 -> 0, 0, 1, 0; + 3
    assert result.values["/relu/Relu"].ravel().tolist() == [0, 0, 1.75, 0.75]
    assert result.edges["fc"][0].tolist() == [[3, 3, 4, 3]]
    assert result.sums["fc"].tolist() == [[2]]  # 1 * 1, and the bias 1.0 / (2.0 * 0.5)
    assert result.outputs["y"].tolist() == [[2.0]] and result.outputs["y"].dtype == np.float32


def test_an_empty_batch_gives_an_empty_result(deploy: Deploy, param: Any) -> None:
    net = deploy(CONV_RELU_FC, conv_relu_fc(param), CONSTANTS)
    assert net.run({"x": np.zeros((0, 1, 2, 2), dtype=np.float32)}).outputs["y"].shape == (0, 1)


def test_scales_shifts_and_biases_go_by_channel(deploy: Deploy, param: Any) -> None:
    graph = 'g (float[1, 1, 1, 1] x) => (float[1, 2, 1, 1] y) { ["conv"] y = Conv(x, w, b) }'
    constants = {"w": np.array([100, -100], dtype=np.float32).reshape(2, 1, 1, 1), "b": np.ones(2, dtype=np.float32)}
    layers = {"conv": param.input(1.0, 0) + param.weight(0.5, 0.25)}
    net = deploy(graph, layers, constants, metadata={"conv": {"num_bits_d": [8], "shift_bit": [3, 4]}})
    result = net.run({"x": np.full((1, 1, 1, 1), 10, dtype=np.float32)})
    # 1000 + 2 -> floor(1002 / 8) * 8; -1000 + 4 -> floor(-996 / 16) * 16
    assert result.sums["conv"].ravel().tolist() == [1000, -1008]
    assert result.outputs["y"].ravel().tolist() == [500.0, -252.0]


def test_an_accumulator_that_overflows_names_layer_and_value(deploy: Deploy, param: Any) -> None:
    graph = 'g (float[1, 600] x) => (float[1, 1] y) { ["fc"] y = MatMul(x, w) }'
    layers = {"fc": param.input(1.0, -32768, "S16") + param.weight(1.0)}
    net = deploy(graph, layers, {"w": np.full((600, 1), 127, dtype=np.float32)})
    with pytest.raises(CalibrationError, match=f"'fc'.*overflows int32.*{600 * 127 * 65535}"):
        net.run({"x": np.full((1, 600), 1e9, dtype=np.float32)})


def test_a_bias_beyond_int32_is_refused(deploy: Deploy, param: Any) -> None:
    net = deploy(CONV_RELU_FC, conv_relu_fc(param), {**CONSTANTS, "b": np.array([1e9], dtype=np.float32)})
    with pytest.raises(CalibrationError, match=r"'conv'.*bias.*int32"):
        net.run({"x": np.zeros((1, 1, 2, 2), dtype=np.float32)})


def test_matmul_takes_its_second_input_as_weight(deploy: Deploy, param: Any) -> None:
    graph = 'g (float[2, 2] a, float[2, 2] b) => (float[2, 2] y) { ["matmul"] y = MatMul(a, b) }'
    net = deploy(graph, {"matmul": param.input(0.5) + param.input(0.25)})
    a, b = np.array([[1, 2], [3, 4]], dtype=np.float32), np.array([[1, 0], [0.5, -1]], dtype=np.float32)
    result = net.run({"a": a, "b": b})
    assert [one.tolist() for one in result.edges["matmul"]] == [[[2, 4], [6, 8]], [[4, 0], [2, -4]]]
    assert result.sums["matmul"].tolist() == [[16, -16], [40, -32]]
    assert result.outputs["y"].tolist() == (a @ b).tolist()


def test_linear_of_rank_three_is_matmul_and_a_float_add(deploy: Deploy, param: Any) -> None:
    graph = """g (float[1, 2, 1] x) => (float[1, 2, 2] y) {
      ["fc"] m = MatMul(x, w)
      ["fc_bias"] y = Add(b, m)
    }"""
    layers = {"fc": param.input(1.0) + param.weight(0.5, 0.25), "fc_bias": param.float_input}
    constants = {"w": np.array([[2, 4]], dtype=np.float32), "b": np.array([0.1, 0.2], dtype=np.float32)}
    result = deploy(graph, layers, constants).run({"x": np.array([[[1], [3]]], dtype=np.float32)})
    expected = np.array([[1, 1], [3, 3]]) + constants["b"].astype(np.float64)  # the bias is not quantized
    np.testing.assert_array_equal(result.outputs["y"][0], expected.astype(np.float32))


def test_max_pool_ignores_padding_and_keeps_the_step(deploy: Deploy, param: Any) -> None:
    graph = """g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) {
      ["pool"] y = MaxPool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(x)
    }"""
    result = deploy(graph, {"pool": param.input(0.5, 7)}).run({"x": -np.ones((1, 1, 2, 2), dtype=np.float32)})
    assert result.edges["pool"][0].ravel().tolist() == [5, 5, 5, 5]
    assert result.sums["pool"].ravel().tolist() == [-2, -2, -2, -2]
    assert result.outputs["y"].ravel().tolist() == [-1, -1, -1, -1]


def test_average_pool_divides_by_each_place(deploy: Deploy, param: Any) -> None:
    graph = """g (float[1, 1, 1, 3] x) => (float[1, 1, 1, 2] y) {
      ["pool"] p = AveragePool<kernel_shape = [1, 2], strides = [1, 2], ceil_mode = 1>(x)
      ["relu"] y = Relu(p)
    }"""
    net = deploy(graph, {"pool": param.input(1.0), "relu": param.input(0.5)})
    result = net.run({"x": np.array([1, 2, 5], dtype=np.float32).reshape(1, 1, 1, 3)})
    assert result.sums["pool"].ravel().tolist() == [3, 5]  # the second window holds one element
    assert result.edges["relu"][0].ravel().tolist() == [3, 10]


def test_a_padding_of_its_own_keeps_the_integers_of_its_pooling(deploy: Deploy, param: Any) -> None:
    graph = """g (float[1, 1, 1, 2] x) => (float[1, 1, 1, 2] y) {
      ["pool/Pad"] p = Pad<mode = "constant">(x, pads, zero)
      ["pool"] y = AveragePool<kernel_shape = [1, 3]>(p)
    }"""
    constants = {"pads": np.array([0, 0, 0, 1, 0, 0, 0, 1]), "zero": np.float32(0)}
    net = deploy(graph, {"pool/Pad": param.input(1.0, -100), "pool": param.float_input}, constants)
    result = net.run({"x": np.array([4, 7], dtype=np.float32).reshape(1, 1, 1, 2)})
    assert result.sums["pool"].ravel().tolist() == [11, 11]
    assert [one.ravel().tolist() for one in result.edges_of("pool")] == [[-96, -93]]
    np.testing.assert_array_equal(result.outputs["y"].ravel(), np.float32(11 / 3))


def test_each_consumer_has_its_own_grid(deploy: Deploy, param: Any) -> None:
    graph = """g (float[1, 1] x) => (float[1, 1] y, float[1, 1] z) {
      ["fc"] m = Gemm(x, w)
      ["add"] y = Add(m, m)
      ["sub"] z = Sub(m, x)
    }"""
    layers = {
        "fc": param.input(1.0) + param.weight(1.0),
        "add": param.input(2.0) + param.input(3.0, 1),
        "sub": param.float_input + param.input(4.0),
    }
    result = deploy(graph, layers, {"w": np.array([[5]], dtype=np.float32)}).run(
        {"x": np.array([[2]], dtype=np.float32)}
    )
    assert [one.item() for one in result.edges["add"]] == [5, 4]  # 10 / 2; rhe(10 / 3) + 1
    assert [one.item() for one in result.edges["sub"]] == [0]  # rhe(2 / 4)
    assert (result.outputs["y"].item(), result.outputs["z"].item()) == (19.0, 10.0)


def test_an_unquantized_cube_op_returns_float32(deploy: Deploy, param: Any) -> None:
    graph = """g (float[1, 2] x) => (float[1, 1] y) {
      ["/mul/Mul"] m = Mul(x, tenth)
      ["/matmul/MatMul"] p = MatMul(m, w)
      ["add"] y = Add(p, p)
    }"""
    layers = {"/mul/Mul": param.float_input, "/matmul/MatMul": param.float_input, "add": param.float_input * 2}
    constants = {"tenth": np.float32(0.1), "w": np.array([[1], [1e-9]], dtype=np.float32)}
    result = deploy(graph, layers, constants).run({"x": np.ones((1, 2), dtype=np.float32)}, keep_values=True)
    assert result.values["/mul/Mul"][0, 0] == float(np.float32(0.1))
    assert result.values["/matmul/MatMul"].item() == float(np.float32(0.1))  # 1e-10 is lost in float32


def test_a_quantized_movement_is_the_identity_on_equal_grids(deploy: Deploy, param: Any) -> None:
    graph = """g (float[2, 3] x) => (float[3, 2] y) {
      ["transpose"] t = Transpose<perm = [1, 0]>(x)
      ["relu"] y = Relu(t)
    }"""
    net = deploy(graph, {"transpose": param.input(0.3, 4), "relu": param.input(0.3, 4)})
    result = net.run({"x": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)})
    np.testing.assert_array_equal(result.edges["transpose"][0].T, result.edges["relu"][0])


def test_the_branch_of_an_if_runs(deploy: Deploy, param: Any) -> None:
    graph = """g (float[2] x, bool flag) => (float[2] y) {
      ["double"] d = Mul(x, two)
      ["if"] y = If (flag) <
        then_branch = then () => (float[2] t) { t = Neg(d) },
        else_branch = otherwise () => (float[2] e) { e = Identity(d) }
      >
    }"""
    net = deploy(graph, {"double": param.float_input, "if": param.float_input}, {"two": np.float32(2)})
    x = np.array([1, 2], dtype=np.float32)
    assert net.run({"x": x, "flag": np.array(True)}).outputs["y"].tolist() == [-2, -4]
    assert net.run({"x": x, "flag": np.array(False)}).outputs["y"].tolist() == [2, 4]


def test_an_unknown_operator_is_named_when_loading(deploy: Deploy, param: Any) -> None:
    graph = 'g (float[2] x) => (float[2] y) { ["odd"] y = custom_domain.Odd(x) }'
    with pytest.raises(UnsupportedModelError, match=r"'odd'.*custom_domain::Odd"):
        deploy(graph, {"odd": param.float_input})


def test_a_node_that_fails_is_named(deploy: Deploy, param: Any) -> None:
    net = deploy(
        'g (float[2] x) => (float[3] y) { ["r"] y = Reshape(x, s) }', {"r": param.float_input}, {"s": np.array([3])}
    )
    with pytest.raises(UnsupportedModelError, match=r"Node 'r' \(Reshape\)"):
        net.run({"x": np.zeros(2, dtype=np.float32)})


def test_wrong_inputs_are_named(deploy: Deploy, param: Any) -> None:
    net = deploy('g (float[2] x) => (float[2] y) { ["r"] y = Relu(x) }', {"r": param.float_input})
    with pytest.raises(ConfigError, match=r"inputs \['x'\], given are \['z'\]"):
        net.run({"z": np.zeros(2)})


def test_half_quantized_products_are_refused(deploy: Deploy, param: Any) -> None:
    graph = 'g (float[2, 2] a, float[2, 2] b) => (float[2, 2] y) { ["m"] y = MatMul(a, b) }'
    net = deploy(graph, {"m": param.input(0.5) + param.float_input})
    with pytest.raises(RecordError, match=r"'m'.*input 1 is not quantized"):
        net.run({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))})


@pytest.mark.parametrize("weight", [0.5, 129.0, np.nan])
def test_weights_must_be_small_integers(deploy: Deploy, param: Any, weight: float) -> None:
    graph = 'g (float[1, 1] x) => (float[1, 1] y) { ["fc"] y = Gemm(x, w) }'
    net = deploy(graph, {"fc": param.input(1.0) + param.weight(1.0)}, {"w": np.array([[weight]], dtype=np.float32)})
    with pytest.raises(RecordError, match=r"'fc'.*not integers"):
        net.run({"x": np.zeros((1, 1))})
