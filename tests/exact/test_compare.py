"""`compare` names the layer in which a fault was injected, and the kind of the fault."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.cli import main
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.onnx_io.exposed import layer_of
from hotwheels.amct_pytorch.oracle.digest import deploy_paths
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from hotwheels.amct_pytorch.record import calibration_param
from hotwheels.amct_pytorch.record.calibration_param import CalibrationParam, DataType
from hotwheels.amct_pytorch.report.divergence import compare, find_cause, first_divergence
from hotwheels.amct_pytorch.report.tensors import LayerTensors, load_tensors, read_dumps
from tests.support.exact_static import images, quantized_net

_METADATA = "amct.deploy.v1"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A saved net with many kinds of layers, its input, and the results of the oracle and of torch."""
    folder = tmp_path_factory.mktemp("compare")
    quantized = quantized_net("mobilenet_v3", "16 bits", folder)
    x = images()
    amct.save_quant_model_fx(quantized, folder / "net", x, golden_inputs=x)
    np.save(folder / "x.npy", x.numpy())
    amct.enable_quantization(quantized, real_quant=True)
    amct.enable_dump(quantized, folder / "dump")
    with torch.no_grad():
        quantized(x)
    oracle = load_tensors("real_quant", folder / "net", [x.numpy()])
    return SimpleNamespace(folder=folder, prefix=folder / "net", x=x.numpy(), oracle=oracle, dump=folder / "dump")


# --- faults in the files ---


class Files:
    """The deploy pair as it can be changed."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self.model = onnx.load(f"{prefix}_deploy_model.onnx")
        del self.model.metadata_props[1:]  # the digests, which would give the change away before anything is computed
        self.params = calibration_param.from_text(Path(f"{prefix}_quant_param_record.txt").read_text(), "record")
        self.metadata = json.loads(self.model.metadata_props[0].value)
        assert self.model.metadata_props[0].key == _METADATA

    def quantized_nodes(self, *op_types: str) -> list[str]:
        quantized = {one.name for one in self.params.layers if one.inputs[0].data_type is not DataType.F16}
        return [
            n.name for n in self.model.graph.node if n.name in quantized and (not op_types or n.op_type in op_types)
        ]

    def constant(self, node_name: str, position: int) -> onnx.TensorProto:
        node = next(one for one in self.model.graph.node if one.name == node_name)
        return next(one for one in self.model.graph.initializer if one.name == node.input[position])

    def change_factor(self, node: str, **changes: Any) -> None:
        self._replace(node, lambda one: dataclasses.replace(
            one, inputs=(dataclasses.replace(one.inputs[0], **changes), *one.inputs[1:])
        ))  # fmt: skip

    def change_weight_factor(self, node: str, **changes: Any) -> None:
        self._replace(node, lambda one: dataclasses.replace(one, weight=dataclasses.replace(one.weight, **changes)))

    def _replace(self, node: str, change: Callable[[Any], Any]) -> None:
        self.params = CalibrationParam(layers=tuple(change(x) if x.name == node else x for x in self.params.layers))

    def factor(self, node: str) -> Any:
        return next(one for one in self.params.layers if one.name == node)

    def save(self, prefix: Path) -> None:
        self.model.metadata_props[0].value = json.dumps(self.metadata)
        onnx.save(self.model, f"{prefix}_deploy_model.onnx")
        Path(f"{prefix}_quant_param_record.txt").write_text(calibration_param.to_text(self.params))


def _weight(files: Files, random: np.random.Generator) -> str:
    return _constant(files, random, 1, lambda array: np.where(array >= 0, array - 3, array + 3))


def _sign(files: Files, random: np.random.Generator) -> str:
    return _constant(files, random, 1, lambda array: -np.clip(array, -127, 127))


def _bias(files: Files, random: np.random.Generator) -> str:
    return _constant(files, random, 2, lambda array: array + np.float32(0.05) * np.abs(array).max())


def _constant(files: Files, random: np.random.Generator, position: int, change: Callable[[Any], Any]) -> str:
    node = str(random.choice(files.quantized_nodes("Conv", "Gemm")))
    tensor = files.constant(node, position)
    array = onnx.numpy_helper.to_array(tensor).copy()
    channel = random.integers(len(array))
    array[channel] = change(array[channel])
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return node


def _scale(files: Files, random: np.random.Generator) -> str:
    node = str(random.choice(files.quantized_nodes()))
    files.change_factor(
        node, scale=(files.factor(node).inputs[0].scale[0] * float(random.choice([0.5, 0.99, 1.02, 3])),)
    )
    return node


def _offset(files: Files, random: np.random.Generator) -> str:
    node = str(random.choice(files.quantized_nodes("Conv", "Gemm", "Add", "Mul", "GlobalAveragePool")))
    value = files.factor(node).inputs[0].offset[0]
    # What is not clipped does not depend on the offset, so it has to move far.
    files.change_factor(node, offset=(value + 30000 if value < 0 else value - 30000,))
    return node


def _weight_scale(files: Files, random: np.random.Generator) -> str:
    node = str(random.choice(files.quantized_nodes("Conv", "Gemm")))
    files.change_weight_factor(node, scale=tuple(1.01 * one for one in files.factor(node).weight.scale))
    return node


def _shift(files: Files, random: np.random.Generator) -> str:
    node = str(random.choice(files.quantized_nodes("Conv", "Gemm")))
    files.metadata["layers"][node]["shift_bit"] = [int(random.integers(6, 12))]
    return node


def _clip(files: Files, random: np.random.Generator) -> str:
    wide = [one for one in files.quantized_nodes() if abs(files.factor(one).inputs[0].offset[0]) < 2**12]
    node = str(random.choice(wide))
    files.metadata["layers"][node]["num_bits_d"][0] = 13
    return node


_FILE_FAULTS = (_weight, _sign, _bias, _scale, _offset, _weight_scale, _shift, _clip)


@pytest.mark.parametrize("seed", range(30))
def test_fault_in_the_files_is_located(seed: int, saved: SimpleNamespace, tmp_path: Path) -> None:
    fault = _FILE_FAULTS[seed % len(_FILE_FAULTS)]
    files = Files(saved.prefix)
    node = fault(files, np.random.default_rng(seed))
    files.save(tmp_path / "faulty")
    found = first_divergence(compare(saved.oracle, load_tensors("real_quant", tmp_path / "faulty", [saved.x])))
    print(f"{fault.__name__} in {node}: {found}")
    assert found is not None
    assert found.layer == layer_of(node)


# --- faults in dumps ---


def _rounding(x: np.ndarray, step: float, random: np.random.Generator) -> np.ndarray:
    """A few elements beside a tie went to the other side."""
    return np.where(random.random(x.shape) < max(0.005, 1.5 / x.size), x + step, x)


def _truncation(x: np.ndarray, step: float, random: np.random.Generator) -> np.ndarray:
    return np.trunc(x / step) * step


def _saturation(x: np.ndarray, step: float, random: np.random.Generator) -> np.ndarray:
    return np.clip(x, np.quantile(x, 0.1), np.quantile(x, 0.9))


def _fusion(x: np.ndarray, step: float, random: np.random.Generator) -> np.ndarray:
    return np.maximum(x - x.mean(), 0) if x.min() >= 0 else np.maximum(x, 0)


def _factor(x: np.ndarray, step: float, random: np.random.Generator) -> np.ndarray:
    return x * 1.03


_DUMP_FAULTS = (_rounding, _truncation, _saturation, _fusion, _factor)


@pytest.mark.parametrize("seed", range(20))
def test_fault_in_a_dump_is_located(seed: int, saved: SimpleNamespace, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    order = [name for name in saved.oracle.results if name in saved.oracle.steps]
    layer = str(random.choice(order[:-1]))
    shutil.copytree(saved.dump, tmp_path / "dump")
    for name in order[order.index(layer) :]:
        (path,) = (tmp_path / "dump").glob(f"{name}_output0_*")
        x, step = np.load(path).astype(np.float64), saved.oracle.steps[name]
        # What follows the faulty layer is disturbed, too.
        changed = _DUMP_FAULTS[seed % 5](x, step, random) if name == layer else x + step * random.normal(size=x.shape)
        np.save(path, changed.astype(np.float32))
    found = first_divergence(compare(saved.oracle, read_dumps(tmp_path / "dump")))
    assert found is not None
    assert found.layer == layer


_SIGNAL = np.random.default_rng(0).normal(0, 1, (2, 3, 32, 32))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, x + 0.01, x), "rounding tie"),
        (lambda x: np.clip(x, -1.2, 1.2), "saturation"),
        (lambda x: np.maximum(x, 0), "other fusion"),
        (lambda x: x[:, :, :4], "other fusion"),
        (lambda x: np.floor(x / 0.01) * 0.01, "requantization"),
        (lambda x: x * np.array([1.0, 1.1, 1.0]).reshape(3, 1, 1), "wrong parameters: one factor"),
        (lambda x: x + np.array([0.0, 0.0, 0.4]).reshape(3, 1, 1), "wrong parameters: one difference"),
        (lambda x: x[:, ::-1], "wrong parameters"),
        (lambda x: x * np.nan, "wrong parameters: results that are not finite"),
    ],
)
def test_cause(change: Callable[[np.ndarray], np.ndarray], cause: str) -> None:
    assert find_cause(_SIGNAL, change(_SIGNAL), 0.01).startswith(cause)


def test_an_infinity_on_one_side_diverges_and_one_on_both_sides_does_not() -> None:
    masked = np.where(np.arange(8) < 6, np.arange(8.0), -np.inf).reshape(1, 8)
    sides = [LayerTensors(title=f"side {at}", results={"masked_fill": masked}, is_exact=True) for at in range(2)]
    (row,) = compare(*sides)
    assert (row.diverges, row.sqnr, row.cosine) == (False, float("inf"), pytest.approx(1))
    for wrong in (np.full_like(masked, 1000.0), np.where(np.isinf(masked), np.nan, masked), -masked, masked + 1):
        (row,) = compare(sides[0], dataclasses.replace(sides[1], results={"masked_fill": wrong}))
        assert row.diverges, wrong
        assert row.cause.startswith("wrong parameters"), wrong


def test_rounding_ties_of_layers_in_front_may_add_up() -> None:
    steps = {"first": 0.01, "second": 0.01}
    results = {name: _SIGNAL for name in steps}

    def rows(first: float, second: float, share: float = 0.0005) -> list[bool]:
        """Differences, in steps, of a share of the first layer and of half of the second's."""
        some = np.arange(_SIGNAL.size).reshape(_SIGNAL.shape)
        changed = {
            "first": _SIGNAL + (some % round(1 / share) == 0) * first * steps["first"],
            "second": _SIGNAL + (some % 2 == 0) * second * steps["second"],
        }
        sides = (
            LayerTensors(title="fake_quant", results=results, steps=steps),
            LayerTensors(title="real_quant", results=changed, steps=steps),
        )
        return [row.diverges for row in compare(*sides)]

    assert rows(1, 1) == [False, False]
    assert rows(1, 1.5) == [False, False]  # 39 dB
    assert rows(0, 1.5) == [False, True]  # no tie in front
    assert rows(1, 5) == [False, True]  # 29 dB
    assert rows(3, 0) == [False, False]  # a tie at the input
    assert rows(3, 0, share=0.1) == [True, False]


def test_the_first_result_of_a_layer_of_several_nodes_is_compared(tmp_path: Path) -> None:
    """unbind is one Split and two Squeezes."""

    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.conv(x).unflatten(1, (2, 3)).unbind(1)
            return self.out(first * second)

    model, x = Halves().eval(), torch.rand(2, 3, 8, 8)
    amct.create_quant_config_fx(tmp_path / "config.json", model)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    for mode in ("real_quant", "fake_quant"):
        amct.enable_quantization(quantized, **{mode: True})
        amct.enable_dump(quantized, tmp_path / mode)
        quantized(x)
        rows = compare(load_tensors(mode, tmp_path / "net", [x.numpy()]), read_dumps(tmp_path / mode))
        assert "unbind" in [row.layer for row in rows]
        assert all(row.sqnr > 100 for row in rows)


# --- sources and the command line ---


@pytest.mark.parametrize("extension", [".npy", ".float", ".txt"])
def test_dumps_of_every_format_are_read(extension: str, saved: SimpleNamespace, tmp_path: Path) -> None:
    for path in saved.dump.glob("*_output0_*"):
        x, target = np.load(path), tmp_path / path.with_suffix(extension).name
        if extension == ".npy":
            np.save(target, x)
        else:
            header = " ".join(map(str, x.shape)) if extension == ".txt" else ""
            np.savetxt(target, x.reshape(-1), fmt="%.9g", header=header, comments="")
    rows = compare(saved.oracle, read_dumps(tmp_path))
    assert len(rows) >= len(saved.oracle.steps)
    assert first_divergence(rows) is None


@pytest.mark.parametrize(
    "pair", ["float fake_quant", "fake_quant real_quant", "onnxruntime real_quant", "float real_quant"]
)
def test_command_line_compares_any_two(pair: str, saved: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    # A float32 sum has 24 bits: at 16 bits the runtime is some steps off.
    call = ["compare", *pair.split(), "--tolerance", "4", "--prefix", str(saved.prefix)]
    code = main([*call, "--input", str(saved.folder / "x.npy")])
    assert code == 0
    assert "none diverges" in capsys.readouterr().out


def test_verify_prints_every_layer_and_finds_a_wrong_weight(
    saved: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(saved.prefix)]) == 0
    assert capsys.readouterr().out.count("  ok\n") > 30
    files = Files(saved.prefix)
    node = _weight(files, np.random.default_rng(1))
    files.save(tmp_path / "net")
    shutil.copy(f"{saved.prefix}_golden.npz", tmp_path / "net_golden.npz")
    assert main(["verify", str(tmp_path / "net")]) == 1
    printed = capsys.readouterr().out
    assert f"the first that is not: {node}" in printed
    assert f"DIFFERS: accumulator at {_first_changed_sum(saved, tmp_path / 'net', node)}" in printed


def _first_changed_sum(saved: SimpleNamespace, prefix: Path, node: str) -> str:
    """Index, value before and after, of the first accumulator of ``node`` that is another one."""
    before, after = (
        Interpreter(*deploy_paths(one)).run({"input": saved.x}).sums[node] for one in (saved.prefix, prefix)
    )
    index = tuple(map(int, np.argwhere(before != after)[0]))
    return f"{list(index)}: expected {before[index]}, found {after[index]}"


@pytest.mark.parametrize("seed", range(16))
def test_verify_names_the_first_value_of_every_fault(
    seed: int, saved: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(saved.prefix)
    node = _FILE_FAULTS[seed % len(_FILE_FAULTS)](files, np.random.default_rng(seed))
    files.save(tmp_path / "net")
    shutil.copy(f"{saved.prefix}_golden.npz", tmp_path / "net_golden.npz")
    assert main(["verify", str(tmp_path / "net")]) == 1
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if "DIFFERS" in line)
    assert first.split()[0] in (node, *_readers(files, node))  # a factor of the weight shows where its result is read
    assert re.search(r"(input \d|accumulator) at \[[\d, ]+\]: expected -?\d+, found -?\d+", first)


def _readers(files: Files, node: str) -> list[str]:
    """The nodes that read what ``node`` makes, through those that are not quantized."""
    made = {name for one in files.model.graph.node if one.name == node for name in one.output}
    readers = []
    for one in files.model.graph.node:
        if made & set(one.input):
            made |= set(one.output)
            readers.append(one.name)
    return readers


def test_wrong_calls_say_what_is_missing(saved: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = ["--prefix", str(saved.prefix)]
    for call, text in (
        (["compare", "float", "real_quant"], "needs the prefix"),
        (["compare", "float", "real_quant", *prefix], "--input FILE.npy"),
        (["compare", "nowhere", "real_quant", *prefix], "neither a folder of dumps"),
        (["compare", "float", str(saved.folder), *prefix, "--input", str(saved.folder / "x.npy")], "holds no file"),
        (["verify", str(saved.folder / "other")], "does not exist"),
    ):
        assert main(call) == 2
        assert text in capsys.readouterr().err


def test_help_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--prefix out/net --input image.npy" in text


def test_dump_of_another_size_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "conv_output0_2_3_pytorch.npy", np.zeros((2, 4)))
    with pytest.raises(ConfigError, match="does not hold a tensor of shape"):
        dict(read_dumps(tmp_path).results)


def test_missing_layers_are_left_out() -> None:
    a, b = (LayerTensors(title=name, results={name: np.ones(2), "both": np.ones(2)}, is_exact=True) for name in "ab")
    assert [row.layer for row in compare(a, b)] == ["both"]


def test_shifts_that_only_one_side_has_are_no_fault() -> None:
    fake = LayerTensors(title="fake_quant", results={"conv": _SIGNAL}, steps={"conv": 0.01})
    real = LayerTensors(title="real_quant", results={"conv": _SIGNAL - 0.05}, is_exact=True, has_shifts=True)
    wrong = LayerTensors(title="real_quant", results={"conv": _SIGNAL[:, ::-1]}, is_exact=True, has_shifts=True)
    assert not compare(fake, real)[0].diverges
    assert compare(fake, real, 1.0)[0].diverges
    assert compare(fake, wrong)[0].diverges


def test_steps_of_earlier_layers_are_allowed_where_no_grid_is_behind_a_layer() -> None:
    steps = {"conv": 0.01}
    a = LayerTensors(title="fake_quant", results={"conv": _SIGNAL, "head": 9 * _SIGNAL}, steps=steps)
    near = LayerTensors(title="real_quant", results={"conv": _SIGNAL + 0.009, "head": 9 * _SIGNAL + 0.05}, steps=steps)
    far = LayerTensors(title="real_quant", results={"conv": _SIGNAL + 0.009, "head": 9 * _SIGNAL + 1}, steps=steps)
    assert not any(row.diverges for row in compare(a, near))
    assert [row.diverges for row in compare(a, far)] == [False, True]
    assert "it adds up from 'conv', which is 1 step apart" in compare(a, far)[1].cause
