"""The file that is written piece by piece is the message protobuf reads."""

import io

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotwheels.amct_pytorch.onnx_io.model_file import load_model, save_model
from hotwheels.amct_pytorch.onnx_io.wire_format import write_with_tensors


def message(sizes):
    """A model with a float initializer of each size, and a small one that no size stands for."""
    proto = onnx.parser.parse_model('<ir_version: 7, opset_import: ["" : 13]> net (float x) => (float y) {y = Neg(x)}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(3), "small"))
    for number, size in enumerate(sizes):
        values = np.random.default_rng(number).standard_normal(size).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, f"w{number}"))
    return proto


@given(st.lists(st.integers(0, 5000) | st.sampled_from([31, 32, 4095, 4096, 600_000]), max_size=4))
def test_is_what_protobuf_would_write(sizes):
    expected = message(sizes)
    tensors = {one.name: ir.from_proto(one) for one in expected.graph.initializer if one.name != "small"}
    outside = message(sizes)
    for one in outside.graph.initializer:
        if one.name in tensors:
            onnx.external_data_helper.set_external_data(one, "elsewhere", 0, len(one.raw_data))
            one.ClearField("raw_data")
    file = io.BytesIO()
    write_with_tensors(outside, tensors, file)
    assert onnx.load_from_string(file.getvalue()) == expected


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.FLOAT16, ir.DataType.INT4])
def test_large_tensors_of_every_kind_come_back(dtype, tmp_path):
    model = ir.from_proto(message([]))
    values = np.random.default_rng(0).integers(-8, 8, (3, 20_001)).astype(dtype.numpy())
    model.opset_imports[""] = 21  # the first with INT4
    model.ir_version = 10
    model.graph.register_initializer(ir.val("w", const_value=ir.Tensor(values, dtype, name="w")))
    save_model(model, tmp_path / "model.onnx")
    found = load_model(tmp_path / "model.onnx").graph.initializers["w"].const_value
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), values)
    # The caller's model still has its values.
    assert np.array_equal(model.graph.initializers["w"].const_value.numpy(), values)
