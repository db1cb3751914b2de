"""A configuration is data: the objects that a dotted name may become; no others are created, called or imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.quantizers.foreign import trusted
from hotwheels.amct_pytorch.quantizers.foreign.dotted_path import (
    import_observer,
    import_quantizer,
    resolve_arguments,
)
from tests.support.nets import Residual

FAKE_QUANTIZE = "torch.quantization.FakeQuantize"
PACKAGE = """
import enum, subprocess
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize, MinMaxObserver

class Mode(enum.Enum):
    FAST = 1

def rounding(x):
    return x.round()

class Declared(nn.Module):
    scale: torch.Tensor
    zero_point: torch.Tensor

class Registers(nn.Module):
    def __init__(self, mode=None, rounding=None):
        super().__init__()
        for name in ("scale", "zero_point"):
            self.register_buffer(name, torch.ones(1))

class Property(nn.Module):
    scale = property(lambda self: 1.0)
    zero_point = property(lambda self: 0)

class Inherits(FakeQuantize):
    pass

class Plain:
    scale, zero_point = 1.0, 0

class NoGrid(nn.Module):
    scale = 1.0

class Built(nn.Module):
    def __init__(self):
        raise AssertionError("it was built")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of a user, which leaves a file behind when it is imported."""
    name = "quantizers_of_a_user"
    (tmp_path / f"{name}.py").write_text(PACKAGE)
    (tmp_path / "raises_when_imported.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "exits_when_imported.py").write_text("raise SystemExit(3)")
    (tmp_path / "a_stranger.py").write_text(f"open({str(tmp_path / 'IMPORTED')!r}, 'w')\n{PACKAGE}")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for one in (name, "raises_when_imported", "exits_when_imported", "a_stranger"):
        sys.modules.pop(one, None)


@pytest.fixture(autouse=True)
def unrestricted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(trusted.VARIABLE, raising=False)
    monkeypatch.setattr(trusted, "_allowed", None)


@pytest.mark.parametrize("name", ["Declared", "Registers", "Property", "Inherits"])
def test_a_quantizer_of_a_users_own_package_is_found(package: str, name: str) -> None:
    assert import_quantizer(f"{package}.{name}", "conv1") is getattr(sys.modules[package], name)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("subprocess.Popen", "found the type 'Popen'"),
        ("os.system", "found the builtin_function_or_method 'system'"),
        ("{}.Plain", "found the type 'Plain'"),
        ("{}.subprocess.Popen", "found the type 'Popen'"),
        ("{}.rounding", "found the function 'rounding'"),
        ("{}.Mode.FAST.name", "nothing can be imported"),
        ("torch.__builtins__.eval", "nothing can be imported"),
        ("nowhere.Class", "nothing can be imported"),
        ("{}.NoGrid", "no attribute zero_point"),
        ("{}.Built", "no attribute scale and zero_point"),
        ("torch.nn.Conv2d", "no attribute scale and zero_point"),
    ],
)
def test_everything_else_is_refused_before_it_is_built(package: str, path: str, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"Layer 'conv1'.*{found}"):
        import_quantizer(path.format(package), "conv1")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "torch.load", "torch.nn.Conv2d", "builtins.eval"])
def test_an_observer_is_an_observer(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"observer '{path}' must be .*calculate_qparams.*docs/security.md"):
        resolve_arguments({"observer": path}, FAKE_QUANTIZE, "conv1")
    with pytest.raises(ConfigError, match=rf"observer '{path}' must be"):
        import_observer(path, "conv1")


def test_presets_of_torch_are_observers() -> None:
    found = resolve_arguments({"observer": "torch.quantization.default_observer"}, FAKE_QUANTIZE, "conv1")
    assert found["observer"] is torch.ao.quantization.default_observer


def test_arguments_become_values_of_torch_and_what_the_package_itself_has(package: str) -> None:
    home = f"{package}.Registers"
    args = {
        "dtype": "torch.qint8", "scheme": "torch.per_tensor_affine", "mode": f"{package}.Mode.FAST",
        "rounding": f"{package}.rounding", "cls": "torch.nn.ReLU",
    }  # fmt: skip
    found = resolve_arguments(args, home, "conv1")
    module = sys.modules.setdefault(package, __import__(package))
    assert found["dtype"] is torch.qint8
    assert found["scheme"] is torch.per_tensor_affine
    assert found["rounding"] is module.rounding
    assert found["cls"] is torch.nn.ReLU


@pytest.mark.parametrize(
    "value", ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "torch.os.system", "a_stranger.rounding",
              "quantizers_of_a_user.subprocess.Popen", "no.such.thing", "image.png", "0.5"],
)  # fmt: skip
def test_other_arguments_stay_strings(package: str, tmp_path: Path, value: str) -> None:
    assert resolve_arguments({"a": value}, f"{package}.Registers", "conv1") == {"a": value}
    assert not (tmp_path / "IMPORTED").exists()


@pytest.mark.parametrize(
    ("name", "cause"), [("raises_when_imported", "RuntimeError: no licence"), ("exits_when_imported", "SystemExit: 3")]
)
def test_a_package_that_fails_is_a_config_error(package: str, name: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=rf"Layer 'conv1': '{name}.Class' cannot be imported: {cause}"):
        import_quantizer(f"{name}.Class", "conv1")


def test_restricted_only_named_packages_are_imported(package: str, tmp_path: Path) -> None:
    amct.allow_quantizers(package)
    assert import_quantizer(f"{package}.Declared", "conv1")
    assert import_quantizer(FAKE_QUANTIZE, "conv1")
    for path in ("a_stranger.Declared", f"{package}_too.Class"):
        with pytest.raises(ConfigError, match=rf"'{path}' is in no package that a configuration may name.*allow_quant"):
            import_quantizer(path, "conv1")
    with pytest.raises(ConfigError, match="in no package"):
        resolve_arguments({"observer": "a_stranger.MinMaxObserver"}, FAKE_QUANTIZE, "conv1")
    assert not (tmp_path / "IMPORTED").exists()
    amct.allow_quantizers()
    with pytest.raises(ConfigError, match="in no package"):
        import_quantizer(f"{package}.Declared", "conv1")


def test_the_environment_restricts_too(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trusted.VARIABLE, f" {package} , other")
    assert import_quantizer(f"{package}.Declared", "conv1")
    with pytest.raises(ConfigError, match="in no package"):
        import_quantizer("a_stranger.Declared", "conv1")
    monkeypatch.setenv(trusted.VARIABLE, "")
    with pytest.raises(ConfigError, match="in no package"):
        import_quantizer(f"{package}.Declared", "conv1")
    amct.allow_quantizers(package)
    assert import_quantizer(f"{package}.Declared", "conv1")


@pytest.mark.parametrize("name", ["", "a b", "a..b", "a/b"])
def test_names_of_packages_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a package"):
        amct.allow_quantizers(name)


def popen(entry: dict[str, Any]) -> None:
    entry |= {"quantizer": "subprocess.Popen", "quantizer_args": {"args": "touch RAN", "shell": True}}


def system(entry: dict[str, Any]) -> None:
    entry |= {"quantizer": FAKE_QUANTIZE, "quantizer_args": {"observer": "os.system", "command": "touch RAN"}}


@pytest.mark.parametrize("hostile", [popen, system])
@pytest.mark.parametrize("section", ["activation", "weight"])
def test_no_command_of_a_config_json_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: Any, section: str
) -> None:
    monkeypatch.chdir(tmp_path)
    amct.create_quant_config_fx("config.json", Residual())
    document = json.loads(Path("config.json").read_text())
    entry = next(one for one in document.values() if "weight_quant_params" in one)
    hostile(entry["activation_quant_params"][0] if section == "activation" else entry["weight_quant_params"])
    Path("config.json").write_text(json.dumps(document))
    Path("state.pt").write_bytes(b"")
    for call in (
        lambda: amct.create_quant_model_fx("config.json", Residual()),
        lambda: amct.restore_quant_model_fx("config.json", Residual(), "state.pt"),
    ):
        with pytest.raises(ConfigError, match=r"docs/security\.md"):
            call()
    assert not Path("RAN").exists()
