"""The converter's parameter file: printed form, both round trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.errors import RecordError
from hotwheels.amct_pytorch.record.calibration_param import (
    CalibrationParam,
    DataType,
    FactorParam,
    LayerParam,
    from_binary,
    from_text,
    to_binary,
    to_text,
)

# Step of 12 bits over +-fl32(sqrt(1536)), and over +-32: the golden numbers of spec 11.4.
GOLDEN = {"52.2430191": 2 * float(np.float32(np.sqrt(1536))) / 4095, "63.9843712": 64 / 4095}


@pytest.mark.parametrize(("printed", "step"), GOLDEN.items())
def test_scale_is_printed_with_nine_digits(printed: str, step: float) -> None:
    scale = float(np.float32(1) / np.float32(step))
    param = CalibrationParam(layers=(LayerParam(name="a", inputs=(FactorParam(scale=(scale,)),)),))
    assert f"scale: {printed}\n" in to_text(param)


def test_every_field_is_written_also_defaults() -> None:
    conv = LayerParam(
        name="conv",
        inputs=(FactorParam(scale=(12.75,), offset=(-128,)),),
        weight=FactorParam(data_type=DataType.S4, scale=(0.1, 1e-7), offset=(0, 0), params=b"\x81\x00\x7f"),
    )
    relu = LayerParam(name="relu", calc_data_type=DataType.F16, inputs=(FactorParam(data_type=DataType.F16),))
    text = to_text(CalibrationParam(layers=(conv, relu)))
    assert text.splitlines() == [
        "version: 65536",
        "layer {",
        '  name: "conv"',
        "  calc_data_type: S8",
        "  quant_param {",
        "    input {",
        "      data_type: S8",
        "      scale: 12.75",
        "      offset: -128",
        "    }",
        "    weight {",
        "      data_type: S4",
        "      scale: 0.100000001",
        "      scale: 1.00000001e-07",
        "      offset: 0",
        "      offset: 0",
        '      params: "\\201\\000\\177"',
        "    }",
        "  }",
        "}",
        "layer {",
        '  name: "relu"',
        "  calc_data_type: F16",
        "  quant_param {",
        "    input {",
        "      data_type: F16",
        "      scale: 1",
        "      offset: 0",
        "    }",
        "  }",
        "}",
    ]


floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3).map(tuple)
factors = st.builds(
    FactorParam,
    data_type=st.sampled_from(DataType),
    scale=floats,
    offset=floats,
    params=st.none() | st.binary(max_size=16),
)
layers = st.builds(
    LayerParam,
    name=st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    calc_data_type=st.sampled_from(DataType),
    inputs=st.lists(factors, max_size=2).map(tuple),
    weight=st.none() | factors,
)
params = st.builds(CalibrationParam, layers=st.lists(layers, max_size=3).map(tuple), version=st.integers(0, 2**32 - 1))


@given(params)
@settings(max_examples=60, deadline=None)
def test_both_forms_are_read_back_equal(param: CalibrationParam) -> None:
    assert from_text(to_text(param), "param.txt") == param
    assert from_binary(to_binary(param), "param.bin") == param


def test_floats_are_rounded_to_what_the_file_holds() -> None:
    assert FactorParam(scale=(0.1,)) == FactorParam(scale=(float(np.float32(0.1)),))


@given(st.binary(max_size=30))
@settings(max_examples=100, deadline=None)
def test_damaged_binary_is_read_or_refused(data: bytes) -> None:
    try:
        from_binary(data, "param.bin")
    except RecordError as error:
        assert "param.bin" in str(error)


def test_damaged_text_names_the_line() -> None:
    with pytest.raises(RecordError, match=r"param\.txt, line 2: "):
        from_text("version: 1\nlayer { name: 3 }", "param.txt")


def test_missing_name_is_refused() -> None:
    with pytest.raises(RecordError, match=r"param\.txt: required field 'layer\[0\]\.name' is missing"):
        from_text("layer { quant_param { } }", "param.txt")
