"""A document in the place of another one is named as what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.config.dynamic.calibration_config import read_calibration_config
from hotwheels.amct_pytorch.config.dynamic.retrain_config import read_retrain_config
from hotwheels.amct_pytorch.config.dynamic.simple_cfg import read_simple_calibration, read_simple_retrain
from hotwheels.amct_pytorch.config.files.kinds import kind_of
from hotwheels.amct_pytorch.config.fx.json_config import read_config
from hotwheels.amct_pytorch.config.fx.simple_yaml import read_simple_yaml
from hotwheels.amct_pytorch.errors import ConfigError
from tests.support.graphs import small_net

DATA = Path(__file__).parents[1] / "data"


def text_of(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


CFG, RETRAIN_CFG = text_of("manual_calibration.cfg"), text_of("manual_retrain.cfg")
YAML, JSON, DYNAMIC_JSON = (
    text_of("cube_only_8bit.yaml"),
    text_of("manual_config.json"),
    '{"version": 1, "batch_num": 2}',
)
RECORD = '# of a call\nrecord {\n  key: "conv1"\n  value {\n    scale_w: 1\n  }\n}\n'
PARAMETERS = 'version: 65536\nlayer {\n  name: "conv1"\n}\n'
SHORT_CFG = 'batch_num : 2\nactivation_offset : true\nskip_layers : "0"\n'  # is YAML, too

READERS: dict[str, Callable[[Path], object]] = {
    "simple yaml": read_simple_yaml,
    "config.json": lambda path: read_config(path, small_net()),
    "dynamic config.json": lambda path: read_calibration_config(path, small_net()),
    "retrain config.json": lambda path: read_retrain_config(path, small_net()),
    "cfg": read_simple_calibration,
    "retrain cfg": read_simple_retrain,
}
# One document of each kind; the layers are those of `small_net`.
DOCUMENTS = {
    "config.json": (
        '{"conv1": {"quant_enable": true, "activation_quant_params": [{"quantizer": "UlqFakeQuantize"}]}}',
        "a config.json of the FX path",
    ),
    "dynamic config.json": (
        '{"version": 1, "activation_offset": true, "conv1": {"quant_enable": true, "activation_quant_params": [{}]}}',
        "a config.json of calibration on the dynamic path",
    ),
    "retrain config.json": (
        '{"version": 1, "conv1": {"retrain_enable": true, "retrain_data_config": [{"algo": "luq_quantize"}]}}',
        "a config.json of training on the dynamic path",
    ),
}
CASES = [
    ("simple yaml", CFG, "a .cfg of calibration on the dynamic path"),
    ("simple yaml", SHORT_CFG, "a .cfg of calibration on the dynamic path"),
    ("simple yaml", RETRAIN_CFG, "a .cfg of training on the dynamic path"),
    ("simple yaml", JSON.replace(",\n}", "\n}"), "a config.json"),
    *[(name, RECORD, "a record of quantization factors") for name in READERS],
    *[(name, PARAMETERS, "a parameter file of the model converter") for name in READERS],
    *[(name, YAML, "a YAML document") for name in READERS if name != "simple yaml"],
    *[(name, CFG, "a .cfg of calibration on the dynamic path") for name in READERS if "json" in name],
    *[(name, JSON, "a JSON document") for name in ("cfg", "retrain cfg")],
    ("config.json", '{"skip_layers": ["a"]}', "a simple configuration"),
    ("config.json", DYNAMIC_JSON, "a config.json of the dynamic path"),
    *[(name, text, kind) for name in DOCUMENTS for other, (text, kind) in DOCUMENTS.items() if other != name],
]


@pytest.mark.parametrize(("reader", "text", "kind"), CASES)
def test_another_document_is_named(reader: str, text: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "given.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        READERS[reader](path)
    assert f"'{path}' is {kind};" in str(raised.value)


@pytest.mark.parametrize(
    "text", ['skip_layers: ["a", "b"]', 'om_config: {mapping_file: "a.json"}', "a: [1", "", "hello"]
)
def test_what_may_be_both_or_is_nothing_known(text: str) -> None:
    assert kind_of(text) in (None, "a YAML document")


def test_what_may_be_both_is_read(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text('skip_layers: ["a", "b"]', encoding="utf-8")
    assert read_simple_yaml(path).skip_layers == read_simple_calibration(path).skip_layers == ("a", "b")
