"""Readers: everything that reads a file which another person may have made, each with files that it takes."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.capacity import read_capacity
from hotwheels.amct_pytorch.cli.record import COMMAND as RECORD_COMMAND
from hotwheels.amct_pytorch.config.dynamic.calibration_config import read_calibration_config
from hotwheels.amct_pytorch.config.dynamic.expand_dynamic import expand_calibration, expand_retrain
from hotwheels.amct_pytorch.config.dynamic.retrain_config import read_retrain_config
from hotwheels.amct_pytorch.config.dynamic.simple_cfg import read_simple_calibration, read_simple_retrain
from hotwheels.amct_pytorch.config.files.om_json import read_om_json
from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.fx.json_config import read_config
from hotwheels.amct_pytorch.config.fx.simple_yaml import read_simple_yaml
from hotwheels.amct_pytorch.files.arrays import read_npy
from hotwheels.amct_pytorch.files.marks import read_mark
from hotwheels.amct_pytorch.files.seal import MANIFEST, check_prefix
from hotwheels.amct_pytorch.oracle.digest import verify
from hotwheels.amct_pytorch.record.text_proto import read_record
from hotwheels.amct_pytorch.report.divergence import compare
from hotwheels.amct_pytorch.report.tensors import load_tensors
from hotwheels.amct_pytorch.workflows.checkpoint import load_checkpoint
from tests.fuzz.acts import Net, X
from tests.support.dynamic_nets import SmallResNet
from tests.support.graphs import small_net
from tests.support.module_graphs import residual_net

DATA = Path(__file__).parents[1] / "config" / "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """One reader.

    Attributes:
      name: What it reads.
      file: Name of the file in its folder.
      around: The other files of the folder, by name.
      seeds: Contents that it takes.
      read: Reads the file, in its folder.
    """

    name: str
    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    around: dict[str, bytes] = dataclasses.field(default_factory=dict)


@functools.cache
def readers() -> dict[str, Reader]:
    """Returns all readers by name; makes what they read, once."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Path.cwd()
        os.chdir(name)
        try:
            return {one.name: one for one in (*_texts(), *_saved(), *_dynamic())}
        finally:
            os.chdir(before)


def _texts() -> list[Reader]:
    def of(name: str, read: Callable[[Path], object], file: str, *seeds: str | Path) -> Reader:
        contents = tuple(one.read_bytes() if isinstance(one, Path) else one.encode() for one in seeds)
        return Reader(name=name, file=file, seeds=contents, read=read)

    yamls = [DATA / "cube_only_8bit.yaml", DATA / "manual_simple.yaml", DATA / "manual_dumped.yaml"]
    aliases = "a: &a {num_bits: 8}\ncommon_config: {activation_quant_params: {quantizer_args: {<<: *a}}}\n"
    configs = [DATA / "manual_config.json", DATA / "manual_fixed.json", DATA / "manual_custom.json"]
    om_json = '{"graph": [{"op": [{"name": "add", "attr": [{"key": "_datadump_original_op_names", "value": {"list":'
    om_json += ' {"s": ["conv1"]}}}], "input_desc": [{"dtype": "DT_INT16"}, {"dtype": "DT_FLOAT16"}]}]}]}'
    small, residual = small_net(), residual_net()
    cfg, retrain_cfg = DATA / "manual_calibration.cfg", DATA / "manual_retrain.cfg"
    calibration, retrain = DATA / "manual_calibration_config.json", DATA / "manual_retrain_config.json"
    return [
        of("simple yaml", lambda path: expand(small, read_simple_yaml(path)), "a.yaml", *yamls, aliases),
        of("config.json", lambda path: read_config(path, small), "c.json", *configs),
        of("om.json", read_om_json, "a.om.json", om_json),
        of("calibration cfg", lambda path: expand_calibration(residual, read_simple_calibration(path)), "a.cfg", cfg),
        of("retrain cfg", lambda path: expand_retrain(residual, read_simple_retrain(path)), "a.cfg", retrain_cfg),
        of("calibration config", lambda path: read_calibration_config(path, residual), "c.json", calibration),
        of("retrain config", lambda path: read_retrain_config(path, residual), "c.json", retrain),
        of("capacity", read_capacity, "capacity.csv", Path(read_capacity().source)),
    ]


def _without_marks(folder: Path) -> dict[str, bytes]:
    """The files of a save as another tool would write them: with them a change in one would be all that is found."""
    return {
        path.name: path.read_bytes()[: read_mark(path)[0]]
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith(MANIFEST)
    }


def _saved() -> list[Reader]:
    amct.create_quant_config_fx("config.json", Net(1))
    quantized = amct.create_quant_model_fx("config.json", Net(1))
    amct.enable_quantization(quantized, calibration=True)
    quantized(X)
    amct.enable_quantization(quantized, fake_quant=True)
    amct.save_quant_model_fx(quantized, "out/net", X, golden_inputs=X)
    torch.save(quantized.state_dict(), "net.pt")
    amct.enable_dump(quantized, "dump")
    quantized(X)
    sealed = {path.name: path.read_bytes() for path in sorted(Path("out").iterdir())}
    files = _without_marks(Path("out"))
    array = io.BytesIO()
    np.save(array, X.numpy())
    dumped = next(Path("dump").glob("fc_output0*.npy"))
    text = dumped.stem.replace("_pytorch", "") + ".float"
    checkpoint = Path("net.pt").read_bytes()

    model = amct.create_quant_model_fx("config.json", Net(1))

    def verified(path: Path) -> None:
        verify(path.parent / "net")

    def compared(kind: str) -> Callable[[Path], object]:
        return lambda path: load_tensors(kind, path.parent / "net", [X.numpy()])

    def of(name: str, file: str, read: Callable[[Path], object], around: dict[str, bytes] = files) -> Reader:
        return Reader(name=name, file=file, seeds=(around[file],), read=read, around=around)

    def alone(name: str, file: str, content: bytes, read: Callable[[Path], object]) -> Reader:
        return Reader(name=name, file=file, seeds=(content,), read=read)

    def set_of(path: Path) -> None:
        check_prefix(path.parent / "net")

    return [
        of("deploy model", "net_deploy_model.onnx", verified),
        of("parameters", "net_quant_param_record.txt", verified),
        of("binary parameters", "net_quant_param_record.bin", lambda path: RECORD_COMMAND.callback(path, None)),
        of("golden file", "net_golden.npz", verified),
        of("fake_quant model", "net_fake_quant_model.onnx", compared("fake_quant")),
        of("float model", "net_float_model.onnx", compared("float")),
        of("record", "net_scale_offset_record.txt", read_record),
        of("manifest", f"net_{MANIFEST}", set_of, sealed),
        of("marked record", "net_scale_offset_record.txt", set_of, sealed),
        of("marked model", "net_deploy_model.onnx", set_of, sealed),
        alone("array", "x.npy", array.getvalue(), read_npy),
        alone("dump", dumped.name, dumped.read_bytes(), _dumps_of),
        alone("dump as text", text, b"1\n2.5\n-3e-3\n", _dumps_of),
        alone("checkpoint", "net.pt", checkpoint, lambda path: load_checkpoint(model, path, None)),
    ]


def _dumps_of(path: Path) -> object:
    tensors = load_tensors(str(path.parent), None, [])
    return compare(tensors, tensors, None)


def _dynamic() -> list[Reader]:
    torch.manual_seed(0)
    net = SmallResNet()
    amct.create_quant_config("dynamic.json", net, X)
    amct.quantize_model("dynamic.json", "pair/modified.onnx", "pair/record.txt", net, X)(X)
    files = _without_marks(Path("pair"))

    def saved(path: Path) -> None:
        amct.save_model(path.parent / "modified.onnx", path.parent / "record.txt", path.parent / "out" / "net")

    return [
        Reader(name=name, file=file, seeds=(files[file],), read=saved, around=files)
        for name, file in (("modified model", "modified.onnx"), ("dynamic record", "record.txt"))
    ]
