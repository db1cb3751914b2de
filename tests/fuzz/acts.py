"""Acts: every public function that writes files, each with two calls whose files differ."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.cli.main import main
from hotwheels.amct_pytorch.files.seal import check_prefix
from hotwheels.amct_pytorch.oracle.digest import verify
from tests.support.dynamic_nets import SmallResNet


@dataclasses.dataclass(frozen=True)
class Act:
    """One call.

    Attributes:
      name: Of the call.
      make: Returns what run 1 or run 2 does, in the working directory.
      read: Reads the files of the working directory, and raises RecordError if they are of two runs; None where there
        is one file, or no reader.
    """

    name: str
    make: Callable[[int], Callable[[], object]]
    read: Callable[[], object] | None = None


class Net(nn.Module):
    """A convolution, a residual addition and a classifier; the second run has one layer more."""

    def __init__(self, run: int) -> None:
        super().__init__()
        torch.manual_seed(run)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.more = nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(run)])
        self.fc = nn.Linear(4, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc((self.more(x) + x).mean((2, 3)))


X = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


def _apart(call: Callable[[], Any]) -> Any:
    """Returns what ``call`` does in a folder that is thrown away afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return call()
        finally:
            os.chdir(before)


@functools.cache
def _fx_model(run: int) -> nn.Module:
    def make() -> nn.Module:
        amct.create_quant_config_fx("config.json", Net(run))
        quantized = amct.create_quant_model_fx("config.json", Net(run))
        amct.enable_quantization(quantized, calibration=True)
        quantized(X * run)
        amct.enable_quantization(quantized, fake_quant=True)
        return quantized

    return _apart(make)


def _config_fx(run: int) -> Callable[[], object]:
    return lambda: amct.create_quant_config_fx("config.json", Net(run))


def _pictures(run: int) -> Callable[[], object]:
    """With a ``dot`` that prints what it reads, since the real one may be missing."""
    dot = _kept() / "dot"
    dot.write_text('#!/bin/sh\nfor last; do :; done; cat "$last"\n')
    dot.chmod(0o755)
    amct.create_quant_config_fx(_kept() / "fx.json", Net(1))
    config = (_kept() / "fx.json").read_text()

    def act() -> None:
        os.environ["PATH"] = f"{dot.parent}:{os.environ['PATH']}"
        Path("config.json").write_text(config)  # of both runs: a layer without an entry is not quantized
        amct.create_quant_model_fx("config.json", Net(run))

    return act


def _save_fx(run: int) -> Callable[[], object]:
    model = _fx_model(run)
    return lambda: amct.save_quant_model_fx(model, "out/net", X, golden_inputs=X)


def _dump(run: int) -> Callable[[], object]:
    model = copy.deepcopy(_fx_model(1))

    def act() -> None:
        amct.enable_dump(model, "dump", ".txt" if run == 1 else "npy")
        model(X * run)

    return act


def _analyze(run: int) -> Callable[[], object]:
    model = _fx_model(run)
    return lambda: amct.QuantAnalyzer(model, X, "reports").analyze()


def _source(run: int) -> Callable[[], object]:
    model = _fx_model(run)
    return lambda: amct.graph_to_dynamic_module(model, "source")


def _dynamic_net(run: int) -> SmallResNet:
    torch.manual_seed(run)
    return SmallResNet()


def _config(run: int) -> Callable[[], object]:
    return lambda: amct.create_quant_config("config.json", _dynamic_net(run), X, batch_num=run)


@functools.cache
def _kept() -> Path:
    """A folder for what calls read; it is there until the end of the process."""
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)
    config = Path(folder.name) / "config.json"
    amct.create_quant_config(config, _dynamic_net(1), X)
    return config.parent


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _quantize_model(run: int) -> Callable[[], object]:
    config, model = _kept() / "config.json", _dynamic_net(run)
    return lambda: amct.quantize_model(config, "modified.onnx", "record.txt", model, X)


def _calibrate(run: int) -> Callable[[], object]:
    model = _apart(_quantize_model(1))
    return lambda: _recorded_here(model)(X * run)


def _recorded_here(model: nn.Module) -> nn.Module:
    """Returns the model, whose record is now in the present folder; it was made in another one."""
    record_file = vars(model)["forward"].session._record_file
    record_file.path = Path.cwd() / record_file.path.name
    return model


def _save_model(run: int) -> Callable[[], object]:
    folder = _kept()
    onnx, record = folder / f"modified{run}.onnx", folder / f"record{run}.txt"
    amct.quantize_model(folder / "config.json", onnx, record, _dynamic_net(run), X)(X * run)
    return lambda: amct.save_model(onnx, record, "out/net")


def _save_pair() -> None:
    """Saves from the files of quantize_model, which says if they are of two calls before it asks for more factors."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(amct.CalibrationError):
        amct.save_model("modified.onnx", "record.txt", f"{folder}/net")


def _retrain_config(run: int) -> Callable[[], object]:
    cfg = _kept() / f"retrain{run}.cfg"
    cfg.write_text(f"batch_num: {run}")
    return lambda: amct.create_quant_retrain_config("retrain.json", _dynamic_net(1), X, cfg)


def _trained(run: int, folder: Path) -> nn.Module:
    amct.create_quant_retrain_config(_kept() / "retrain.json", _dynamic_net(run), X)
    model = amct.create_quant_retrain_model(
        _kept() / "retrain.json", _dynamic_net(run), folder / f"retrained{run}.txt", X
    )
    model(X * run)
    return model


def _evaluate(run: int) -> Callable[[], object]:
    model = _apart(lambda: _trained(run, Path()))
    return lambda: _recorded_here(model)(X * run)


def _save_retrained(run: int) -> Callable[[], object]:
    model = _trained(run, _kept())
    model(X * run)
    record = _kept() / f"retrained{run}.txt"
    return lambda: amct.save_quant_retrain_model(_kept() / "retrain.json", model, record, "out/net", X)


def first_net() -> nn.Module:
    """What the command line builds in run 1."""
    return Net(1)


def second_net() -> nn.Module:
    """What the command line builds in run 2."""
    return Net(2)


def _command(*words: str | Path) -> Callable[[], object]:
    def act() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([str(one) for one in words]) == 0

    return act


def _of_model(run: int) -> list[str]:
    """Returns the words of a command on the net of ``run``, and writes its checkpoint and configuration."""
    state, config = _kept() / f"net{run}.pt", _kept() / f"net{run}.json"
    amct.create_quant_config_fx(config, Net(run))
    torch.save(_fx_model(run).state_dict(), state)
    name = "first_net" if run == 1 else "second_net"
    words = [
        "-m",
        f"{__name__}.{name}",
        "-w",
        state,
        "--quant_config",
        config,
        "--input_shape",
        "2,3,8,8",
        "-i",
        "random",
    ]
    return [str(one) for one in words]


def _export(run: int) -> Callable[[], object]:
    return _command("export", *_of_model(run), "-o", "out/net")


def _refine(run: int) -> Callable[[], object]:
    return _command("refine", *_of_model(run), "-o", "out/net")


def _auto(run: int) -> Callable[[], object]:
    def act() -> None:
        amct.auto_quantize(Net(run), [X, -X], budget=1.5, config_file="auto.yml", refine=False, progress=False)

    return act


def _record(run: int) -> Callable[[], object]:
    record = _kept() / f"shown{run}.txt"
    amct.quantize_model(_kept() / "config.json", _kept() / f"shown{run}.onnx", record, _dynamic_net(run), X)(X * run)
    return _command("record", record, "-o", "record.txt")


def _compare(run: int) -> Callable[[], object]:
    amct.save_quant_model_fx(_fx_model(run), _kept() / f"compared{run}", X)
    np.save(_kept() / "x.npy", X.numpy())
    kind = f"real_quant:{_kept() / f'compared{run}'}"
    return _command("compare", kind, kind, "-i", _kept() / "x.npy", "--html", "page.html")


ACTS = {
    one.name: one
    for one in (
        Act("create_quant_config_fx", _config_fx),
        Act("create_quant_model_fx", _pictures),
        Act("save_quant_model_fx", _save_fx, lambda: verify("out/net")),
        Act("enable_dump", _dump),
        Act("QuantAnalyzer", _analyze),
        Act("graph_to_dynamic_module", _source),
        Act("create_quant_config", _config),
        Act("quantize_model", _quantize_model, _save_pair),
        Act("calibration", _calibrate),
        Act("save_model", _save_model, lambda: check_prefix("out/net")),
        Act("create_quant_retrain_config", _retrain_config),
        Act("evaluation", _evaluate),
        Act("save_quant_retrain_model", _save_retrained, lambda: check_prefix("out/net")),
        Act("amct export", _export, lambda: check_prefix("out/net")),
        Act("amct refine", _refine),  # the checkpoint is a file of its own, so no reader knows it
        Act("auto_quantize", _auto),
        Act("amct record", _record),
        Act("amct compare", _compare),
    )
}
