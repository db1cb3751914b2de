"""om.json: an unknown layout with names and data types somewhere in it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.config.files.om_json import UNKNOWN_WIDTH, om_layers

# As the open Ascend tools write it.
ASCEND = {
    "graph": [
        {
            "op": [
                {
                    "name": "conv1_fused",
                    "type": "Conv2D",
                    "attr": [
                        {
                            "key": "_datadump_original_op_names",
                            "value": {"list": {"s": ["conv1", "relu"], "val_type": 1}},
                        }
                    ],
                    "input_desc": [{"dtype": "DT_INT8"}, {"dtype": "DT_INT8"}, {"dtype": "DT_INT32"}],
                },
                {"name": "add", "input_desc": [{"dtype": "DT_INT16"}, {"dtype": "DT_FLOAT16"}]},
                {"name": "data", "input_desc": [{"dtype": "DT_INT64"}]},
                {"name": "softmax", "input_desc": []},
            ]
        }
    ]
}


def test_ascend_layout() -> None:
    layers = om_layers(ASCEND)
    assert layers["conv1"] == layers["conv1_fused"] == (8, 8, UNKNOWN_WIDTH)
    assert layers["add"] == (16, None)
    assert "data" not in layers
    assert "softmax" not in layers


def test_flat_layout() -> None:
    assert om_layers(
        [{"name": "a", "inputs": ["s8", "FP16"]}, {"_datadump_original_op_names": ["b"], "input": ["S16"]}]
    ) == {
        "a": (8, None),
        "b": (16,),
    }


keys = st.sampled_from(("name", "inputs", "input_desc", "dtype", "attr", "key", "value", "_datadump_original_op_names"))
scalars = st.none() | st.integers() | st.sampled_from(("S8", "F16", "conv1", "_datadump_original_op_names"))
documents = st.recursive(scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(keys, one), max_leaves=12)


@given(documents)
@settings(max_examples=150, deadline=None)
def test_any_document_is_read(document: object) -> None:
    for name, widths in om_layers(document).items():
        assert isinstance(name, str)
        assert set(widths) <= {8, 16, None, UNKNOWN_WIDTH}
