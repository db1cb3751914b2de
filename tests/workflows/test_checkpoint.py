"""Checkpoints that are damaged, of another format or with impossible values: a ConfigError with file and key."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import ConfigError
from tests.support.log_lines import LogLines, log_lines  # noqa: F401, the fixture

X = torch.linspace(-1, 1, 3 * 6 * 6).reshape(1, 3, 6, 6)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    amct.create_quant_config_fx(path, net())
    return path


@pytest.fixture(scope="module")
def state(config: Path) -> dict[str, Tensor]:
    model = amct.create_quant_model_fx(config, net())
    amct.enable_quantization(model, calibration=True)
    model(X)
    return dict(model.state_dict())


def restore(config: Path, path: Path, name: str | None = None) -> nn.Module:
    return amct.restore_quant_model_fx(config, net(), path, name)


def bytes_of(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def packed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def npy(_: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def script(_: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), buffer)
    return buffer.getvalue()


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "first bytes": lambda data: data[:3],
    "text": lambda data: b"a text\n",
    "pickle": lambda data: pickle.dumps({"a": 1}),
    "pickle of code": lambda data: bytes_of({"a": print}),
    "module": lambda data: bytes_of(net()),
    "npy": npy,
    "script": script,
    "packed": packed,
    "other zip": lambda data: packed(data)[:-1] + b"x",
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES.keys())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_that_is_no_checkpoint(
    make: Callable[[bytes], bytes], config: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(make(bytes_of(state)))
    with pytest.raises(ConfigError, match=rf"^'{path}' ") as caught:
        restore(config, path)
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (3, "holds a int, not a state_dict"),
        ([torch.zeros(1)], "holds a list, not a state_dict"),
        ({0: torch.zeros(1)}, "the key 0 is no string"),
        ({"conv": 3.0}, "'conv' is a float; pass state_dict_name if it holds one. Its keys: conv"),
        ({"model": {"a": torch.zeros(1)}}, "'model' is a (dict|OrderedDict); pass state_dict_name"),
    ],
    ids=["number", "list", "int key", "float", "nested"],
)
def test_what_is_no_state_dict(content: Any, found: str, config: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=found):
        restore(config, tmp_path / "state.pt")


def test_a_nested_one_is_found_by_name_and_others_are_named(config: Path, state: Any, tmp_path: Path) -> None:
    torch.save({"model": state, "epoch": 3}, tmp_path / "state.pt")
    assert restore(config, tmp_path / "state.pt", "model")
    with pytest.raises(ConfigError, match=r"'epoch' in it is a int"):
        restore(config, tmp_path / "state.pt", "epoch")
    with pytest.raises(ConfigError, match=r"no key 'other'.*Its keys: model, epoch"):
        restore(config, tmp_path / "state.pt", "other")


QUANTIZER = "amct_layers._0.activation.0"
VALUES = [
    (f"{QUANTIZER}.clip_max", torch.tensor(float("nan")), "is nan; it must be finite"),
    (f"{QUANTIZER}.clip_min", torch.tensor(float("-inf")), "is -inf; it must be finite"),
    (f"{QUANTIZER}.previous_max", torch.tensor(-1.0), r"is -1\.0; the upper end of a range must not be negative"),
    (f"{QUANTIZER}.observer.min_val", torch.tensor(1.0), r"is 1\.0; the lower end of a range must not be positive"),
    (f"{QUANTIZER}.observer.scale", torch.tensor(0.0), r"is 0\.0; it must be positive"),
    (f"{QUANTIZER}.clip_max", torch.tensor(3), r"is a tensor of torch\.int64 with shape \[\]; the model has a tensor"),
    (f"{QUANTIZER}.clip_max", torch.zeros(2), r"size mismatch for .*clip_max.*torch\.Size\(\[2\]\)"),
    ("0.weight", torch.zeros(4, 3, 3, 3, dtype=torch.complex64), r"torch\.complex64"),
    ("0.weight", torch.zeros(4, 3, 3, 3).to_sparse(), r"'0\.weight' is a tensor"),
    ("0.weight", torch.zeros(1), r"size mismatch for 0\.weight"),
]


@pytest.mark.parametrize(("key", "value", "found"), VALUES)
def test_an_impossible_value_is_named(
    key: str, value: Tensor, found: str, config: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    torch.save({**state, key: value}, path)
    with pytest.raises(ConfigError, match=found) as caught:
        restore(config, path)
    assert str(path) in str(caught.value)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_in_half_precision_are_converted(config: Path, state: Any, tmp_path: Path) -> None:
    torch.save({**state, "0.weight": state["0.weight"].half()}, tmp_path / "state.pt")
    assert restore(config, tmp_path / "state.pt")


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module.",
        "model.",
        "module.net.model.",
    ],
)
def test_names_of_wrappers_are_stripped(
    prefix: str,
    config: Path,
    state: Any,
    tmp_path: Path,
    log_lines: LogLines,  # noqa: F811
) -> None:
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "state.pt")
    restored = restore(config, tmp_path / "state.pt").state_dict()
    assert all(torch.equal(restored[name], value) for name, value in state.items())
    said = "took the prefixes of wrappers (DistributedDataParallel, torch.compile) off"
    assert any(said in line for line in log_lines.of("INFO"))


def test_the_state_of_an_average_is_restored(config: Path, state: Any, tmp_path: Path) -> None:
    averaged = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(3)}
    torch.save(averaged, tmp_path / "state.pt")
    restored = restore(config, tmp_path / "state.pt").state_dict()
    assert all(torch.equal(restored[name], value) for name, value in state.items())


def test_an_empty_checkpoint_is_said_to_be_one(config: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=r"state.pt' holds a state_dict without entries\."):
        restore(config, tmp_path / "state.pt")


def test_a_float_checkpoint_is_said_to_be_one(config: Path, tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="holds the state of a float model: none of its 9 entries") as caught:
        restore(config, tmp_path / "state.pt")
    assert len(str(caught.value)) < 400
