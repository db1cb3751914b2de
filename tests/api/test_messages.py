"""What users read: one warning per cause, how far a calibration is, sizes, arrays, and errors of their own."""

from __future__ import annotations

import copy
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.log_lines import LogLines
from tests.support.nets import Residual

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "sample" / "quantize_conf").glob("cube_only*.yaml"))


class Mlp(nn.Module):
    """Linear layers on three dimensions: each is worth a warning of one and the same text."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def quantized(model: nn.Module, folder: Path, definition: Path | None = None) -> nn.Module:
    model = model.eval()
    amct.create_quant_config_fx(folder / "config.json", model, definition)
    result = amct.create_quant_model_fx(folder / "config.json", model)
    amct.enable_quantization(result, calibration=True)
    return result


def test_layers_with_one_cause_are_one_warning(tmp_path: Path, log_lines: LogLines) -> None:
    model = quantized(Mlp(), tmp_path)
    with torch.no_grad():
        model(torch.rand(2, 3, 6))
    (found,) = [line for line in log_lines.warnings if "than 2 dimensions" in line]
    assert found.startswith("4 layers: input has more than 2 dimensions")
    assert found.endswith("Layers: 'layers_0', 'layers_1', 'layers_2', 'layers_3'.")


def test_a_single_layer_is_named_first(tmp_path: Path, log_lines: LogLines) -> None:
    model = quantized(Outer(nn.Linear(6, 6)), tmp_path)
    with torch.no_grad():
        model(torch.rand(2, 3, 6))
    (found,) = [line for line in log_lines.warnings if "than 2 dimensions" in line]
    assert found.startswith("Layer 'block': input has more than 2 dimensions")


def test_warnings_are_told_when_the_forward_fails(tmp_path: Path, log_lines: LogLines) -> None:
    model = quantized(Mlp(), tmp_path)
    model.quantized_layers["layers_2"].register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(torch.rand(2, 3, 6))
    assert any(line.startswith("2 layers: input has more than 2 dimensions") for line in log_lines.warnings)


def _fail(*_: object) -> None:
    raise RuntimeError("on purpose")


class ReadsSizes(nn.Module):
    """Calls a function several times, which the trace looks into each time."""

    def __init__(self, run: Callable[[nn.ModuleList, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layers, self.run(self.layers, x))


@pytest.mark.parametrize("lines, told", [(3, 3), (9, 5)])
def test_lines_that_read_sizes_are_one_message_with_five_of_them(
    lines: int, told: int, tmp_path: Path, log_lines: LogLines
) -> None:
    body = "\n".join(f"    x = layers[0](x) * (1.0 if x.shape[2] > {index} else 2.0)" for index in range(lines))
    (tmp_path / "reads.py").write_text(f"def run(layers, x):\n{body}\n    return layers[1](x)\n")
    found = runpy.run_path(str(tmp_path / "reads.py"))
    amct.check_model(ReadsSizes(found["run"]).eval(), torch.rand(1, 3, 16, 16))
    (text,) = [line for line in log_lines.of("INFO") if "reads sizes as Python values" in line]
    assert text.count("in run") == told
    assert text.endswith(" and 4 more") is (lines == 9)


class Siblings(nn.Module):
    """Three pairs of siblings which a configuration can tear apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.right = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for left, right in zip(self.left, self.right, strict=True):
            x = torch.relu(left(x) + right(x))
        return x


def test_a_broken_rule_is_one_warning_with_all_places_and_a_repair(tmp_path: Path, log_lines: LogLines) -> None:
    model = Siblings().eval()
    (tmp_path / "skip.yaml").write_text("skip_layers: [right_0, right_1, right_2]\n")
    amct.create_quant_config_fx(tmp_path / "config.json", model, tmp_path / "skip.yaml")
    amct.create_quant_model_fx(tmp_path / "config.json", model)
    found = [line for line in log_lines.warnings if "should have consistent quant_enable" in line]
    assert len(found) == 1
    *places, repair = found[0].splitlines()
    assert len(places) == 3
    assert repair.startswith("Repair of 'right_0': in config.json set")


@pytest.mark.parametrize("definition", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_warn_of_nothing_in_their_own_sample(
    definition: Path, tmp_path: Path, log_lines: LogLines
) -> None:
    pytest.importorskip("sklearn")
    from sample.common.zoo import RECIPES

    torch.manual_seed(0)
    model = RECIPES["resnet50"].build()
    for one in model.modules():
        if isinstance(one, nn.BatchNorm2d):  # as after training: at first each block's last factor is 0
            nn.init.ones_(one.weight)
    result = quantized(model, tmp_path, definition)
    with torch.no_grad():
        result(torch.rand(2, 3, 32, 32))
    amct.enable_quantization(result, fake_quant=True)
    assert SHIPPED
    assert [line for line in log_lines.warnings if "is not drawn" not in line] == []


def test_a_torn_pair_of_cube_operations_is_told_all_the_same(tmp_path: Path, log_lines: LogLines) -> None:
    (tmp_path / "skip.yaml").write_text(
        "common_config: {quant_enable: false}\noverride_layer_configs: [{layer_name: left_0}]\n"
    )
    quantized(Siblings(), tmp_path, tmp_path / "skip.yaml")
    assert any("must be quantized as it is an operation calculated on CUBE" in line for line in log_lines.warnings)


def test_how_many_batches_a_layer_has_seen(tmp_path: Path) -> None:
    (tmp_path / "four.yaml").write_text(
        "common_config: {activation_quant_params: {quantizer_args: {observer: IFMRObserver, batch_num: 4}}}\n"
    )
    model = quantized(Residual(), tmp_path, tmp_path / "four.yaml")
    with torch.no_grad():
        model(torch.rand(2, 3, 8, 8))
    with pytest.raises(amct.CalibrationError, match="1 of 4 batches seen by stem_0, conv1"):
        amct.save_quant_model_fx(model, tmp_path / "net", torch.rand(1, 3, 8, 8))
    amct.enable_quantization(model, fake_quant=True)
    with pytest.raises(amct.CalibrationError, match=r"Layer 'stem_0' is not calibrated \(1 of 4 batches seen\)"):
        model(torch.rand(1, 3, 8, 8))


def test_save_names_the_size_that_is_not_that_of_the_calibration(tmp_path: Path) -> None:
    model = quantized(Residual(), tmp_path)
    with torch.no_grad():
        model(torch.rand(2, 3, 8, 8))
    with pytest.raises(amct.ExportError) as caught:
        amct.save_quant_model_fx(model, tmp_path / "net", torch.rand(1, 5, 8, 8))
    assert "input_data: 'image' is [1, 5, 8, 8], in calibration it was [2, 3, 8, 8]." in str(caught.value)
    assert "tlparse" not in str(caught.value)


ARRAY = np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize("what", ["config", "dynamic", "forward", "save", "analyze", "check", "refine"])
def test_arrays_are_told_from_numpy(what: str, tmp_path: Path) -> None:
    model = quantized(Residual(), tmp_path)
    with torch.no_grad():
        model(torch.rand(1, 3, 8, 8))
    calls: dict[str, Callable[[], object]] = {
        "config": lambda: amct.create_quant_config_fx(tmp_path / "a.json", Residual().eval(), input_data=ARRAY),
        "dynamic": lambda: amct.create_quant_config(tmp_path / "a.json", Residual().eval(), ARRAY),
        "forward": lambda: model(ARRAY),
        "save": lambda: amct.save_quant_model_fx(model, tmp_path / "net", ARRAY),
        "analyze": lambda: amct.QuantAnalyzer(model, ARRAY, tmp_path),
        "check": lambda: amct.check_model(Residual().eval(), ARRAY),
        "refine": lambda: amct.refine(model, [ARRAY]),
    }
    with pytest.raises(TypeError, match=r"numpy.ndarray of shape \(1, 3, 8, 8\), not a tensor: pass torch.from_numpy"):
        calls[what]()


# --- errors of the user's own code ---


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 4, 1), {}

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.table["scale"]  # the user's mistake


class Missing(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.scale


class Divides(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1 / len(self.table))


class Outer(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


EXAMPLE = torch.rand(1, 3, 4, 4)


@pytest.mark.parametrize("example", [None, EXAMPLE], ids=["stock", "guided"])
@pytest.mark.parametrize(
    ("block", "kind", "text"),
    [
        (Broken, KeyError, "'scale'"),
        (Missing, AttributeError, "has no attribute 'scale'"),
        (Divides, ZeroDivisionError, ""),
    ],
)
def test_an_error_of_the_users_own_comes_through(
    block: type[nn.Module], kind: type[Exception], text: str, example: Tensor | None, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        amct.create_quant_config_fx(tmp_path / "config.json", Outer(block()).eval(), input_data=example)
    assert type(caught.value) is kind
    assert text in str(caught.value)
    (note,) = caught.value.__notes__
    assert f"layer 'block' ({block.__name__})" in note
    line = next(
        frame.lineno + 1
        for frame in caught.traceback
        if frame.path == Path(__file__) and frame.name == "forward" and frame.locals.get("self").__class__ is block
    )
    assert f'"{__file__}", line {line}' in note


class WrongSize(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))


def test_sizes_that_do_not_fit_are_torchs_own_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        amct.create_quant_config_fx(tmp_path / "config.json", WrongSize().eval(), input_data=EXAMPLE)
    assert not isinstance(caught.value, amct.AmctError)
    assert "failed while attempting to run meta" not in capfd.readouterr().err


class AsksForTheType(Broken):
    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise KeyError("not a tensor")
        return self.conv(x)


class LooksUpASize(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * {4: 2.0}[x.shape[2]]


@pytest.mark.parametrize("model", [AsksForTheType, LooksUpASize])
def test_what_only_a_trace_raises_is_an_error_of_the_trace(model: type[nn.Module], tmp_path: Path) -> None:
    model().eval()(EXAMPLE)
    with pytest.raises(amct.UnsupportedModelError, match="The model cannot be traced"):
        amct.create_quant_config_fx(tmp_path / "config.json", model().eval())


def test_the_model_is_as_before_when_its_error_comes_through(tmp_path: Path) -> None:
    class Trains(Broken):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.norm(x))

    model = Trains().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError):
        amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=EXAMPLE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- stages ---


def test_info_has_a_line_per_stage_and_debug_one_per_layer(tmp_path: Path, log_lines: LogLines) -> None:
    model = quantized(Residual(), tmp_path)
    with torch.no_grad():
        model(torch.rand(2, 3, 8, 8))
    amct.save_quant_model_fx(model, tmp_path / "net", torch.rand(1, 3, 8, 8))
    stages = [line.split(":")[0].split(" ")[0] for line in log_lines.of("INFO") if "dvice" not in line]
    assert stages == ["Wrote", "Fold", "Weights", "Calibrated", "Wrote"]
    debug = log_lines.of("DEBUG")
    for name in model.quantized_layers:
        own = [line for line in debug if line.startswith(f"Layer '{name}':")]
        assert sum("calibrated, input 0" in line for line in own) == 1, own
        assert sum("saved with" in line for line in own) == 1
    assert "Layer 'stem_0': 'stem_1' folded into it." in debug


CHANNELS, RANK, TYPE = torch.rand(2, 1, 8, 8), torch.rand(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (CHANNELS, "'image' is [2, 1, 8, 8], in calibration it was [4, 3, 8, 8]"),
        (RANK, "'image' is [3, 8, 8], in calibration it was [4, 3, 8, 8]"),
        (TYPE, "'image' is [2, 3, 8, 8] torch.uint8, in calibration it was [4, 3, 8, 8] torch.float32"),
    ],
    ids=["channels", "rank", "type"],
)
def test_an_error_of_a_forward_has_the_input_that_is_not_like_in_calibration(
    given: Tensor, text: str, tmp_path: Path
) -> None:
    model = quantized(Residual(), tmp_path)
    with pytest.raises((RuntimeError, IndexError)) as first:
        model(given)
    assert f"'image' is {list(given.shape)} {given.dtype}." in first.value.__notes__[-1]
    model(torch.rand(4, 3, 8, 8))
    for run in (lambda: model(given), amct.QuantAnalyzer(model, given, tmp_path / "reports").analyze):
        with pytest.raises((RuntimeError, IndexError)) as caught:
            run()
        assert text in "".join(caught.value.__notes__)


def test_an_error_of_a_forward_on_the_dynamic_path_has_the_same_note(tmp_path: Path) -> None:
    x = torch.rand(4, 3, 8, 8)
    amct.create_quant_config(tmp_path / "c.json", Residual().eval(), x)
    model = amct.quantize_model(tmp_path / "c.json", tmp_path / "m.onnx", tmp_path / "r.txt", Residual().eval(), x)
    for note in (
        "in layer 'stem.0': 'image' is [2, 1, 8, 8] torch.float32.",
        "[2, 1, 8, 8], in calibration it was [4, 3",
    ):
        with pytest.raises(RuntimeError) as caught:
            model(CHANNELS)
        assert note in caught.value.__notes__[-1]
        model(x)


def test_a_model_without_layers_is_a_warning_and_the_error_behind_it_has_the_file(
    tmp_path: Path, log_lines: LogLines
) -> None:
    model, path = nn.Sequential(nn.Conv3d(2, 2, 1)).eval(), tmp_path / "config.json"
    amct.create_quant_config_fx(path, model)
    assert any("no layer that can be quantized" in one and "check_model" in one for one in log_lines.warnings)
    with pytest.raises(amct.ConfigError) as caught:
        amct.create_quant_model_fx(path, model)
    assert str(caught.value).startswith(
        "No quant enable layer in quant config file, please check the quant config file."
    )
    assert f"'{path}' has no entry for a layer of the model. check_model(model)" in str(caught.value)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + torch.rand_like(x)


def test_a_random_operation_has_no_golden_file(tmp_path: Path) -> None:
    model, x = quantized(Noisy(), tmp_path), torch.rand(1, 3, 4, 4)
    model(x)
    with pytest.raises(amct.UnsupportedModelError) as caught:
        amct.save_quant_model_fx(model, tmp_path / "net", x, golden_inputs=x)
    text = str(caught.value)
    assert text.startswith(f"'{tmp_path / 'net_golden.npz'}' cannot be written. Node '")
    assert "(RandomUniformLike): the oracle" in text
    assert "Leave out golden_inputs" in text
    assert ".tmp" not in text


def test_a_model_of_the_dynamic_path_is_named_as_one(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 8, 8)
    amct.create_quant_config(tmp_path / "c.json", Residual().eval(), x)
    paths = (tmp_path / "c.json", tmp_path / "m.onnx", tmp_path / "r.txt")
    model = amct.quantize_model(*paths, Residual().eval(), x)
    for call in (
        lambda: amct.save_quant_model_fx(model, tmp_path / "net", x),
        lambda: amct.QuantAnalyzer(model, x, tmp_path / "reports"),
        lambda: amct.enable_dump(model, tmp_path / "dump"),
    ):
        with pytest.raises(amct.UnsupportedModelError, match=r"quantized model of the dynamic path.*save_model"):
            call()


@pytest.mark.parametrize(("key", "name"), [("batchnum: 2", "batch_num"), ("common_config { dmq_balencer {} }", "")])
def test_a_mistyped_field_of_a_cfg_has_the_nearest(key: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "t.cfg").write_text(key)
    with pytest.raises(amct.ConfigError, match=f"has no field named .*(Did you mean|Known names).*{name}"):
        amct.create_quant_config(
            tmp_path / "c.json", Residual().eval(), torch.rand(1, 3, 8, 8), config_definition=tmp_path / "t.cfg"
        )


@pytest.mark.parametrize("kind", ["under a file", "too long"])
def test_an_impossible_path_is_one_line_with_its_argument(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / ("file/net" if kind == "under a file" else 260 * "a")
    x = torch.rand(1, 3, 8, 8)
    model = quantized(Residual(), tmp_path)
    model(x)
    amct.create_quant_config(tmp_path / "c.json", Residual().eval(), x)
    calls = {
        "save_path": lambda: amct.save_quant_model_fx(model, path, x),
        "config_file": lambda: amct.create_quant_config_fx(path, Residual()),
        "modfied_onnx_file": lambda: amct.quantize_model(tmp_path / "c.json", path, tmp_path / "r", Residual(), x),
        "save_dir": lambda: amct.QuantAnalyzer(model, x, path),
    }
    for argument, call in calls.items():
        with pytest.raises(OSError, match=rf"\(\): argument '{argument}' is '{path}") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(IsADirectoryError, match=r"quantize_model\(\): argument 'modfied_onnx_file' is the folder"):
        amct.quantize_model(tmp_path / "c.json", tmp_path, tmp_path / "r", Residual().eval(), x)


def test_a_state_of_other_layers_names_them(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text("skip_layers: [head]\n")
    other = quantized(Residual(), tmp_path, tmp_path / "rules.yml")
    other(torch.rand(2, 3, 8, 8))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    amct.create_quant_config_fx(tmp_path / "all.json", Residual())
    with pytest.raises(amct.ConfigError) as caught:
        amct.restore_quant_model_fx(tmp_path / "all.json", Residual().eval(), tmp_path / "other.pt")
    assert "Layers that only the model has: 'head'." in str(caught.value)
    assert "Layers that only the state has" not in str(caught.value)
    assert len(str(caught.value)) < 500


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.last = nn.Embedding(5, 8), nn.GRUCell(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.table(x)
        return self.last(self.cell(y[:, 1], self.cell(y[:, 0])))


def test_modules_that_multiply_in_float_are_one_warning(tmp_path: Path, log_lines: LogLines) -> None:
    amct.create_quant_config_fx(
        tmp_path / "config.json", Cells().eval(), input_data=torch.zeros(2, 2, dtype=torch.int64)
    )
    (found,) = log_lines.warnings
    assert found.startswith("Layer 'cell': it multiplies with weights in float: GRUCell is not an operation")
    assert "check_model(model, input_data)" in found


@pytest.mark.parametrize("path", ["fx", "dynamic"])
def test_a_part_in_another_floating_type(path: str, tmp_path: Path) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3).half(), nn.Conv2d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x.half()).float())

    model, x = Halves().eval(), torch.rand(1, 3, 8, 8)
    with pytest.raises((RuntimeError, amct.AmctError)) as caught:
        if path == "dynamic":
            amct.create_quant_config(tmp_path / "c.json", model, x)
        else:
            amct.create_quant_config_fx(tmp_path / "c.json", model, input_data=x)
            amct.create_quant_model_fx(tmp_path / "c.json", model, input_data=x)(x)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "write x.to(self.conv.weight.dtype), which fits both" in text
    assert "nothing to do with quantization" not in text
