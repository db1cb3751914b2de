"""``om_config`` of a ``.cfg`` end to end: the converter's widths reach the record, of EltwiseAdd layers only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.dynamic_nets import SmallResNet


def om_json(path: Path) -> None:
    # The second input is the block's, which its convolution reads too: siblings need equal widths (spec 13.1).
    wide, narrow = {"dtype": "S16"}, {"dtype": "S8"}
    ops = [{"name": "layer1.0.eltwise_add", "input_desc": [wide, narrow]}, {"name": "conv1", "input_desc": [wide]}]
    path.write_text(json.dumps({"graph": [{"op": ops}]}))


def test_the_widths_of_an_addition_come_from_the_om_json(tmp_path: Path) -> None:
    om_json(tmp_path / "net.om.json")
    (tmp_path / "quant.cfg").write_text(f'batch_num : 1\nom_config : {{ mapping_file : "{tmp_path}/net.om.json" }}\n')
    model, x = SmallResNet().eval(), torch.randn(2, 3, 8, 8)
    files = [tmp_path / name for name in ("config.json", "modified.onnx", "record.txt")]
    amct.create_quant_config(files[0], model, x, config_defination=tmp_path / "quant.cfg")
    calibrated = amct.quantize_model(*files, model, x)
    calibrated(x)
    layers = read_record(files[2]).layers
    assert [one.num_bits for one in layers["layer1.0.eltwise_add"].activations] == [16, 8]
    assert [one.num_bits for one in layers["conv1"].activations] == [8]


def test_a_missing_om_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "quant.cfg").write_text('om_config : { mapping_file : "nowhere.om.json" }\n')
    model, x = SmallResNet().eval(), torch.randn(1, 3, 8, 8)
    with pytest.raises(FileNotFoundError, match=r"nowhere.om.json"):
        amct.create_quant_config(tmp_path / "config.json", model, x, config_defination=tmp_path / "quant.cfg")
