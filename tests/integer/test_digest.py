from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hotwheels.amct_pytorch.errors import RecordError
from hotwheels.amct_pytorch.integer import digest
from hotwheels.amct_pytorch.integer.digest import LayerVerdict
from hotwheels.amct_pytorch.integer.interpreter import Interpreter

GRAPH = """g (float[1, 2] x) => (float[1, 1] y) {
  ["fc1"] h = Gemm(x, w1)
  ["fc2"] y = Gemm(h, w2)
}"""
X = {"x": np.array([[1, -2]], dtype=np.float32)}


@pytest.fixture
def prefix(pair: Callable[..., Path], param: Any) -> Path:
    layer = param.input(1.0) + param.weight(1.0)
    constants = {"w1": np.array([[3], [1]], dtype=np.float32), "w2": np.array([[7]], dtype=np.float32)}
    return pair(GRAPH, {"fc1": layer, "fc2": layer}, constants)


def write(prefix: Path) -> None:
    result = Interpreter(*digest.deploy_paths(prefix)).run(X)
    digest.write_golden(digest.golden_path(prefix), X, result)


def test_a_digest_is_sha256_of_little_endian_int32(prefix: Path) -> None:
    result = Interpreter(*digest.deploy_paths(prefix)).run(X)
    expected = hashlib.sha256(struct.pack("<2i", 1, -2)).hexdigest()
    assert digest.digests(result)["fc1"] == expected
    assert digest.sum_digests(result)["fc2"] == hashlib.sha256(struct.pack("<i", 7)).hexdigest()


def test_an_unchanged_pair_is_verified(prefix: Path) -> None:
    write(prefix)
    assert digest.verify(prefix) == [LayerVerdict(name="fc1", is_ok=True), LayerVerdict(name="fc2", is_ok=True)]


def test_a_changed_weight_is_found_where_it_is(prefix: Path) -> None:
    write(prefix)
    model = onnx.load(f"{prefix}_deploy_model.onnx")
    last = next(one for one in model.graph.initializer if one.name == "w2")
    last.CopyFrom(onnx.numpy_helper.from_array(np.array([[8]], dtype=np.float32), "w2"))
    onnx.save(model, f"{prefix}_deploy_model.onnx")
    first, second = digest.verify(prefix)
    assert first.is_ok
    assert second == LayerVerdict(name="fc2", is_ok=False, reason="its inputs are equal, its accumulator differs")


def test_a_changed_scale_is_found_where_it_is(prefix: Path) -> None:
    write(prefix)
    path = digest.deploy_paths(prefix)[1]
    path.write_text(path.read_text().replace("input { data_type: S8 scale: 1 ", "input { data_type: S8 scale: 4 ", 1))
    assert digest.verify(prefix)[0] == LayerVerdict(name="fc1", is_ok=False, reason="the integers of its inputs differ")


def test_golden_inputs_are_read_back(prefix: Path) -> None:
    write(prefix)
    golden = digest.read_golden(digest.golden_path(prefix))
    assert list(golden.inputs) == ["x"] and set(golden.edges) == set(golden.sums) == {"fc1", "fc2"}
    np.testing.assert_array_equal(golden.inputs["x"], X["x"])


def test_a_file_that_is_no_golden_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "P_golden.npz").write_text("nonsense")
    with pytest.raises(RecordError, match="P_golden.npz"):
        digest.read_golden(tmp_path / "P_golden.npz")


def test_a_folder_prefix_has_bare_names(tmp_path: Path) -> None:
    assert digest.golden_path(f"{tmp_path}/") == tmp_path / "golden.npz"
    assert digest.deploy_paths(f"{tmp_path}/")[0] == tmp_path / "deploy_model.onnx"
