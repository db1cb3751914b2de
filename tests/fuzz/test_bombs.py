"""Files that claim far more than they hold end in exit code 2 and one line, in a process that may not take more memory.

The process may take `_MOST` bytes beside those of its imports: a reader that believes a claim dies of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from hotwheels.amct_pytorch.files.limits import RUNTIME_SECONDS
from tests.fuzz.readers import readers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory, holes")
DEPLOY, FAKE, GOLDEN, INPUT = "net_deploy_model.onnx", "net_fake_quant_model.onnx", "net_golden.npz", "in.npy"
VERIFY = ("verify", "net")
COMPARE = ("compare", "fake_quant", "real_quant", "--prefix", "net", "--input", INPUT)
OPTIMIZED = ("compare", "onnxruntime", "real_quant", "--prefix", "net", "--input", INPUT)
_MOST = 700 << 20
_CODE = """
import contextlib, io, json, os, resource, sys, time
import hotwheels.amct_pytorch, onnxruntime
from hotwheels.amct_pytorch.cli.main import main
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = (int(fields["VmData"].split()[0]) << 10) + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
ends = []
for folder, call in json.loads(sys.argv[2]):
    os.chdir(folder)
    begin, error = time.process_time(), io.StringIO()
    with contextlib.redirect_stderr(error):
        code = main(call)
    ends.append((code, time.process_time() - begin, error.getvalue()))
print(json.dumps(ends))
"""


def outside(model: onnx.ModelProto, folder: Path) -> None:
    """Adds a tensor of 12 GB that lies in a file of holes."""
    tensor = model.graph.initializer.add(name="big", data_type=TensorProto.FLOAT, dims=[3_000_000_000])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="big.bin")
    with (folder / "big.bin").open("wb") as file:
        file.truncate(12_000_000_000)


def filled(*sizes: int) -> Callable[[onnx.ModelProto, Path], None]:
    def change(model: onnx.ModelProto, _: Path) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(sizes), "sizes"))
        model.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["filled"], name="filled"))

    return change


def endless(model: onnx.ModelProto, _: Path) -> None:
    """Adds a Loop that never ends."""
    flag = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("in", "out")]
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("v", "w")]
    same = [helper.make_node("Identity", pair[:1], pair[1:]) for pair in (["in", "out"], ["v", "w"])]
    body = helper.make_graph(same, "body", [turn, flag[0], value[0]], [flag[1], value[1]])
    for name, array in {"most": np.array(1 << 60), "go": np.array(True), "start": np.zeros(1, np.float32)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.append(helper.make_node("Loop", ["most", "go", "start"], ["end"], name="endless", body=body))


def doubling(model: onnx.ModelProto, _: Path) -> None:
    """Adds forty local functions, each with the one before twice in the branches of an If."""
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    for at in range(40):
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        if at:
            calls = [helper.make_node(f"f{at - 1}", [name], [end], domain="d") for name, end in ("xt", "to")]
            branch = helper.make_graph(calls, "b", [], [out])
            nodes = [helper.make_node("Cast", ["x"], ["c"], to=TensorProto.BOOL)]
            nodes += [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
        model.functions.append(helper.make_function("d", f"f{at}", ["x"], ["y"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("d", 1))
    model.graph.node.append(helper.make_node("f39", [model.graph.input[0].name], ["doubled"], name="n", domain="d"))


def deep(model: onnx.ModelProto, _: Path) -> None:
    """Adds five thousand local functions, each of which calls the one before."""
    for at in range(5000):
        call = helper.make_node(f"f{at - 1}" if at else "Identity", ["x"], ["y"], domain="d" if at else "")
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
        model.functions.append(helper.make_function("d", f"f{at}", ["x"], ["y"], [call], opsets))


MODELS = {
    "a tensor of 12 GB in holes, verify": (VERIFY, DEPLOY, outside, "holes"),
    "a tensor of 12 GB in holes, compare": (COMPARE, FAKE, outside, "holes"),
    "a result of 8 TB": (COMPARE, FAKE, filled(1 << 41), "onnxruntime"),
    "a result of 3 GB": (COMPARE, FAKE, filled(3, 1 << 28), "--unlimited"),
    "an endless loop": (COMPARE, FAKE, endless, "more than 10 s"),
    "doubling functions": (VERIFY, DEPLOY, doubling, "local functions that stand for more than"),
    "a chain of functions": (VERIFY, DEPLOY, deep, "depth exceeds limit"),
}


def array_of_holes(folder: Path) -> None:
    with (folder / INPUT).open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (3_000_000_000,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 12_000_000_000)


def golden_of_zeros(folder: Path) -> None:
    """Writes a golden file that unpacks to a thousand times its size."""
    size = 400_000_000
    arrays = {"shape": np.array([size]), "blocks": np.zeros((-(-size // 1024), 8), np.uint8)}
    arrays["values"] = np.zeros(size, np.int8)
    tensor = {f"accumulator/0/{part}/conv": array for part, array in arrays.items()}
    np.savez_compressed(folder / GOLDEN, **{"golden.version": np.array(2)}, **tensor)


OTHERS = {
    "an array of holes": (COMPARE, INPUT, array_of_holes, "claims 12,000,000,128 bytes"),
    "a golden file of zeros": (
        VERIFY,
        GOLDEN,
        golden_of_zeros,
        "has 400,000,000 elements; the values in a golden file may have at most 67,108,864",
    ),
}
CASES = MODELS | OTHERS


def write(folder: Path, name: str, change: Callable[..., None]) -> None:
    for file, content in readers()["deploy model"].around.items():
        (folder / file).write_bytes(content)
    (folder / INPUT).write_bytes(readers()["array"].seeds[0])
    if not name.endswith(".onnx"):
        change(folder)
        return
    model = onnx.load_from_string((folder / name).read_bytes())
    change(model, folder)
    (folder / name).write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, float, str]]:
    """Exit code, processor seconds and error of each case, all in one process with limits."""
    calls = {}
    for case, (call, name, change, _) in CASES.items():
        folder = tmp_path_factory.mktemp("bomb")
        write(folder, name, change)
        calls[case] = (str(folder), call)
    command = [sys.executable, "-c", _CODE, str(_MOST), json.dumps(list(calls.values()))]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return dict(zip(CASES, json.loads(ended.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_what_claims_too_much_is_refused_in_one_line(case: str, ends) -> None:
    _, name, _, reason = CASES[case]
    code, seconds, error = ends[case]
    assert (code, error.count("\n")) == (2, 1), error
    assert reason in error
    assert name in error or "big.bin" in error
    assert seconds < RUNTIME_SECONDS.most + 5  # an endless run takes its whole limit; the rest is for reading
