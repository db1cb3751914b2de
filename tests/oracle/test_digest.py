from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hotwheels.amct_pytorch.errors import RecordError
from hotwheels.amct_pytorch.files import FileSet
from hotwheels.amct_pytorch.files.seal import sealed_set
from hotwheels.amct_pytorch.oracle import digest
from hotwheels.amct_pytorch.oracle.digest import LayerVerdict
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

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
    with FileSet() as files:
        digest.write_golden(digest.golden_path(prefix), X, result, files)


def test_an_unchanged_pair_is_verified(prefix: Path) -> None:
    write(prefix)
    assert digest.verify(prefix) == [LayerVerdict(name=name, is_ok=True) for name in ("fc1", "fc2", "y")]


def change_weight(prefix: Path, name: str, value: list[list[float]]) -> None:
    model = onnx.load(f"{prefix}_deploy_model.onnx")
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    onnx.save(model, f"{prefix}_deploy_model.onnx")


def change_params(prefix: Path, old: str, new: str) -> None:
    path = digest.deploy_paths(prefix)[1]
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_changed_weight_is_found_where_it_is(prefix: Path) -> None:
    write(prefix)
    change_weight(prefix, "w2", [[8]])
    first, second, output = digest.verify(prefix)
    assert first.is_ok
    assert second == LayerVerdict(name="fc2", is_ok=False, reason="accumulator at [0, 0]: expected 7, found 8")
    assert output.reason == "output at [0, 0]: expected 7.0, found 8.0"


def test_a_changed_scale_is_found_where_it_is(prefix: Path) -> None:
    write(prefix)
    change_params(prefix, "input { data_type: S8 scale: 1 ", "input { data_type: S8 scale: 4 ")
    reason = "input 0 at [0, 0]: expected 1, found 4, the first of 2 that differ"
    assert digest.verify(prefix)[0] == LayerVerdict(name="fc1", is_ok=False, reason=reason)


def test_a_changed_factor_behind_the_last_accumulator_shows_at_the_output(prefix: Path) -> None:
    write(prefix)
    text = digest.deploy_paths(prefix)[1].read_text()
    at = text.rindex("weight { data_type: S8 scale: 1 ")
    digest.deploy_paths(prefix)[1].write_text(text[:at] + text[at:].replace("scale: 1 ", "scale: 2 "))
    reasons = {one.name: one.reason for one in digest.verify(prefix)}
    assert reasons == {"fc1": "", "fc2": "", "y": "output at [0, 0]: expected 7.0, found 3.5"}


def test_what_was_computed_before_an_overflow_has_its_verdict(prefix: Path) -> None:
    write(prefix)
    change_params(prefix, "weight { data_type: S8 scale: 1 ", "weight { data_type: S8 scale: 0.000001 ")
    model = onnx.load(f"{prefix}_deploy_model.onnx")
    node = next(one for one in model.graph.node if one.name == "fc2")
    node.input.append("b2")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2.0**31], dtype=np.float32), "b2"))
    onnx.save(model, f"{prefix}_deploy_model.onnx")
    first, second, stop = digest.verify(prefix)
    assert first.is_ok
    assert second.reason == "input 0 at [0, 0]: expected 1, found 127"
    assert (stop.name, stop.is_ok) == ("(run)", False) and "'fc2'" in stop.reason and "int32" in stop.reason


def test_layers_on_one_side_only_are_said(prefix: Path) -> None:
    result = Interpreter(*digest.deploy_paths(prefix)).run(X)
    with FileSet() as files:
        other = dataclasses.replace(result, sums={"other": result.sums["fc1"]})
        digest.write_golden(digest.golden_path(prefix), X, other, files)
    reasons = {one.name: one.reason for one in digest.verify(prefix)}
    assert reasons["fc1"] == "accumulator is computed by the deploy pair, but not in the golden file"
    assert reasons["other"] == "accumulator is in the golden file, but not computed by the deploy pair"


def test_of_the_largest_tensors_the_blocks_are_known(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "MOST_VALUES", 4)  # all but the input of fc1, which has 2 elements
    write(prefix)
    tensors = digest.read_golden(digest.golden_path(prefix)).tensors
    assert [place.layer for place, one in tensors.items() if one.values is None] == ["fc1"]
    change_params(prefix, "input { data_type: S8 scale: 1 ", "input { data_type: S8 scale: 4 ")
    reason = digest.verify(prefix)[0].reason
    assert reason.startswith("input 0 differs between [0, 0] and [0, 1]; the golden file does not hold the values")


def write_sealed(prefix: Path, change: int = 0) -> None:
    result = Interpreter(*digest.deploy_paths(prefix)).run(X)
    other = dataclasses.replace(result, sums=result.sums | {"fc2": result.sums["fc2"] + np.int32(change)})
    with sealed_set(prefix) as files:
        for path in digest.deploy_paths(prefix):
            files.write_bytes(path, path.read_bytes())
        digest.write_golden(digest.golden_path(prefix), X, other, files)


def test_of_a_sealed_file_the_values_are_read_only_where_something_differs(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[bool] = []
    original = digest.read_golden

    def counted(path: Path, *, with_values: bool = True) -> digest.Golden:
        reads.append(with_values)
        return original(path, with_values=with_values)

    monkeypatch.setattr(digest, "read_golden", counted)
    write_sealed(prefix)
    assert all(one.is_ok for one in digest.verify(prefix)) and reads == [False]
    write_sealed(prefix, 5)
    found = {one.name: one.reason for one in digest.verify(prefix)}
    assert found == {"fc1": "", "fc2": "accumulator at [0, 0]: expected 12, found 7", "y": ""}
    assert reads == [False, False, True]


def test_values_that_do_not_fit_their_digests_are_refused_where_no_mark_vouches_for_the_file(prefix: Path) -> None:
    write(prefix)
    path = digest.golden_path(prefix)
    arrays = dict(np.load(path))
    arrays["accumulator/0/values/fc2"] = arrays["accumulator/0/values/fc2"] + np.int8(1)
    np.savez(path, **arrays)
    with pytest.raises(RecordError, match=r"digests and values of accumulator of 'fc2' do not fit together"):
        digest.verify(prefix)


def test_golden_inputs_are_read_back(prefix: Path) -> None:
    write(prefix)
    golden = digest.read_golden(digest.golden_path(prefix))
    assert list(golden.inputs) == ["x"]
    assert [str(place) for place in golden.tensors] == ["input 0", "accumulator"] * 2 + ["output"]
    np.testing.assert_array_equal(golden.inputs["x"], X["x"])


def test_a_file_of_another_version_is_named(prefix: Path) -> None:
    np.savez(digest.golden_path(prefix), **{"input:x": X["x"], "edges:fc1": np.array("0" * 64)})
    with pytest.raises(RecordError, match=r"P_golden.npz.*is not a golden file"):
        digest.verify(prefix)


def test_a_file_that_is_no_golden_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "P_golden.npz").write_text("nonsense")
    with pytest.raises(RecordError, match=r"P_golden.npz"):
        digest.read_golden(tmp_path / "P_golden.npz")


def test_a_folder_prefix_has_bare_names(tmp_path: Path) -> None:
    assert digest.golden_path(f"{tmp_path}/") == tmp_path / "golden.npz"
    assert digest.deploy_paths(f"{tmp_path}/")[0] == tmp_path / "deploy_model.onnx"
