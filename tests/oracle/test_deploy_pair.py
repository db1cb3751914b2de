from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotwheels.amct_pytorch.errors import RecordError
from hotwheels.amct_pytorch.oracle.deploy_pair import Grid, load_deploy_pair
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

ADD = 'g (float[N] a, float[N] b) => (float[N] y) { ["add"] y = Add(a, b) }'


def files(prefix: Path) -> tuple[str, str]:
    return f"{prefix}_deploy_model.onnx", f"{prefix}_quant_param_record.txt"


def test_the_scale_is_the_reciprocal_in_float32(pair: Callable[..., Path]) -> None:
    layer = "input { data_type: S16 scale: 52.2430191 offset: 0 } input { data_type: F16 scale: 1 offset: 0 }"
    loaded = load_deploy_pair(*files(pair(ADD, {"add": layer}, metadata={"add": {"num_bits_d": [12, 16]}})))
    scale = float(np.float32(1) / np.float32(52.2430191))
    assert loaded.layers["add"].grids == {0: Grid(scale=scale, offset=0, num_bits=12)}
    assert (loaded.layers["add"].grids[0].qmin, loaded.layers["add"].grids[0].qmax) == (-2048, 2047)


@pytest.mark.parametrize(("data_type", "num_bits"), [("S4", 4), ("S8", 8), ("S16", 16)])
def test_without_metadata_the_type_says_the_width(
    pair: Callable[..., Path], param: Any, data_type: str, num_bits: int
) -> None:
    layer = param.input(0.5, 0, data_type) + param.float_input
    loaded = load_deploy_pair(*files(pair(ADD, {"add": layer})))
    assert loaded.layers["add"].grids[0].num_bits == num_bits


@dataclasses.dataclass(frozen=True)
class Refused:
    id: str
    layers: dict[str, str]
    message: str
    metadata: dict[str, Any] | None = None


S8 = "input { data_type: S8 scale: 2 offset: 0 }"
REFUSED = [
    Refused("no entry", {}, "'add' .* has no entry"),
    Refused("unknown layer", {"add": S8 + S8, "conv": S8}, "'conv' of the parameter file is no node"),
    Refused("input count", {"add": S8}, "has 1 inputs in the parameter file, .* 2 activations"),
    Refused("offset", {"add": S8 + S8.replace("offset: 0", "offset: 128")}, "offset 128.0 is no 8 bit"),
    Refused("zero scale", {"add": S8 + S8.replace("scale: 2", "scale: 0")}, "must be positive"),
    Refused("unsigned", {"add": S8 + S8.replace("S8", "U8")}, "no grid of an input"),
    Refused("bits", {"add": S8 + S8}, "num_bits_d is 12, the data type is S8", {"add": {"num_bits_d": [12, 8]}}),
    Refused("bit count", {"add": S8 + S8}, "num_bits_d has 1 values", {"add": {"num_bits_d": [8]}}),
    Refused("shift", {"add": S8 + S8}, "shift_bit is", {"add": {"shift_bit": [0, 3]}}),
    Refused("metadata", {"add": S8 + S8}, "'mul' of the model's metadata", {"mul": {}}),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_files_that_do_not_fit_are_refused(pair: Callable[..., Path], case: Refused) -> None:
    with pytest.raises(RecordError, match=case.message):
        load_deploy_pair(*files(pair(ADD, case.layers, metadata=case.metadata)))


def test_an_entry_twice_is_refused(pair: Callable[..., Path]) -> None:
    prefix = pair(ADD, {"add": S8 + S8})
    path = Path(files(prefix)[1])
    path.write_text(path.read_text() * 2)
    with pytest.raises(RecordError, match="more than one entry for layer 'add'"):
        load_deploy_pair(*files(prefix))


def test_the_binary_form_is_read(pair: Callable[..., Path], tmp_path: Path) -> None:
    from hotwheels.amct_pytorch.record import calibration_param

    prefix = pair(ADD, {"add": S8 + S8})
    param = calibration_param.from_text(Path(files(prefix)[1]).read_text(), "text")
    (tmp_path / "P.bin").write_bytes(calibration_param.to_binary(param))
    text, binary = load_deploy_pair(*files(prefix)), load_deploy_pair(files(prefix)[0], tmp_path / "P.bin")
    assert text.layers == binary.layers


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"P_deploy_model\.onnx"):
        Interpreter(*files(tmp_path / "P"))
