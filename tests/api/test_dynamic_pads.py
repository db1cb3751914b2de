"""Zero padding modules in front of a Conv2d on the dynamic path: they become ``pads`` of its node."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.onnx_io.model_file import load_model
from tests.support import fx_path
from tests.support.dynamic_path import calibrated, check_training, run
from tests.support.exact_dynamic import assert_exact
from tests.support.fixtures import one_thread, seeded
from tests.support.padded_nets import FOLDED, KEPT, Padded

__all__ = ["one_thread", "seeded"]


class Net(nn.Module):
    """Padded convolutions, one with padding of its own; ``kind`` says what else reads a padding."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind, self.pad, self.wide = kind, nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d((2, 0, 1, 3), 0.0)
        self.first, self.norm = nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 3, padding=(0, 1), groups=2)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(self.pad(x))))
        padded = self.wide(x)
        y = self.last(padded)
        if self.kind == "read twice":
            return y + padded[:, :, 1:-1]
        if self.kind == "called twice":
            return y + self.last(self.wide(x))
        return (y, padded) if self.kind == "returned" else y


def images(seed: int) -> Tensor:
    return torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def types(path: Path) -> list[str]:
    return [node.op_type for node in load_model(path).graph]


def test_padding_is_pads_of_the_node(tmp_path: Path) -> None:
    model = Net().eval()
    quantized, files = calibrated(model, tmp_path, [(images(1),)])
    files.save(quantized)
    graph = {node.name: node for node in load_model(files.deploy_pair[0]).graph}
    assert "Pad" not in types(files.deploy_pair[0])
    assert graph["first"].attributes["pads"].as_ints() == (0, 0, 1, 1)
    assert graph["last"].attributes["pads"].as_ints() == (1, 3, 3, 1)
    x = images(2)
    (found,) = fx_path.run_onnx(files.fake_quant, x)
    torch.testing.assert_close(torch.from_numpy(found), run(quantized, x), rtol=1e-4, atol=1e-5)
    assert_exact(quantized, files, x)
    assert quantized.state_dict().keys() >= model.state_dict().keys()


@pytest.mark.parametrize("kind", ["read twice", "called twice", "returned"])
def test_padding_that_others_read_stays(kind: str, tmp_path: Path) -> None:
    quantized, files = calibrated(Net(kind).eval(), tmp_path, [(images(1),)])
    files.save(quantized)
    assert types(files.deploy_pair[0]).count("Pad") >= 1
    x = images(2)
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, x)[0])
    expected = run(quantized, x)
    torch.testing.assert_close(found, expected[0] if kind == "returned" else expected, rtol=1e-4, atol=1e-5)


def test_training_and_files(tmp_path: Path) -> None:
    quantized = check_training(Net, images, tmp_path, lambda model: model.last.weight)
    assert quantized.first.weight.grad.abs().max() > 0
    assert "Pad" not in types(tmp_path / "trained_deploy_model.onnx")


@pytest.mark.parametrize("name", [name for name in FOLDED if not name.startswith("F.")])
def test_padding_of_a_function_becomes_pads(name: str, tmp_path: Path) -> None:
    make, pads = FOLDED[name]
    torch.manual_seed(0)
    model = make().eval()
    expected = run(model, images(1))
    quantized, files = calibrated(model, tmp_path, [(images(1),)])
    files.save(quantized)
    for path in (files.onnx, files.fake_quant, files.deploy_pair[0]):
        windows = [one.attributes["pads"].as_ints() for one in load_model(path).graph if "pads" in one.attributes]
        assert "Pad" not in types(path)
        assert windows[-1] == tuple(pads)
    torch.testing.assert_close(torch.from_numpy(fx_path.run_onnx(files.onnx, images(1))[0]), expected)
    (found,) = fx_path.run_onnx(files.fake_quant, images(2))
    torch.testing.assert_close(torch.from_numpy(found), run(quantized, images(2)), rtol=1e-4, atol=1e-5)
    assert_exact(quantized, files, images(2))


@pytest.mark.parametrize("name", KEPT)
def test_padding_of_a_function_stays_where_the_result_would_be_another(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = KEPT[name]().eval()
    expected = run(model, images(1))
    quantized, files = calibrated(model, tmp_path, [(images(1),)])
    files.save(quantized)
    assert {"Pad", "Concat", "Slice"} & set(types(files.onnx))
    torch.testing.assert_close(torch.from_numpy(fx_path.run_onnx(files.onnx, images(1))[0]), expected)
    assert_exact(quantized, files, images(2))


class SameAgain(nn.Module):
    """A padding computed from the size behind another such padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.first, self.second):
            missing = max((-(x.shape[-1] // -2) - 1) * 2 + 3 - x.shape[-1], 0)
            x = torch.relu(conv(torch.nn.functional.pad(x, (missing // 2, missing - missing // 2) * 2)))
        return x


def test_padding_behind_a_computed_padding_is_a_constant(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, files = calibrated(SameAgain().eval(), tmp_path, [(images(1)[..., :8, :8],)])
    assert set(types(files.onnx)) == {"Conv", "Relu"}


def test_batch_norm_in_front_of_a_padding_stays(tmp_path: Path) -> None:
    class Net(Padded):
        def __init__(self) -> None:
            super().__init__(lambda x: torch.nn.functional.pad(x, (1, 1)), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.pad(self.bend(self.first(x).relu())))

    torch.manual_seed(0)
    model = Net().eval()
    nn.init.uniform_(model.bend.bias, 1, 2)  # type: ignore[arg-type]
    expected = run(model, images(1))
    _, files = calibrated(model, tmp_path, [(images(1),)])
    assert "BatchNormalization" in types(files.onnx)
    torch.testing.assert_close(torch.from_numpy(fx_path.run_onnx(files.onnx, images(1))[0]), expected)


@pytest.mark.parametrize("seed", [0])
def test_padding_of_a_function_trains(seed: int, tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(seed)
        return FOLDED["own padding"][0]()

    trained = check_training(make, images, tmp_path, lambda model: model.get_parameter("layer.weight"))
    assert trained.get_parameter("layer.weight").grad is not None


def test_saving_sizes_that_the_export_infers_prints_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """onnx_ir prints a line for each value with a shape and without a type, whenever a model is written."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 4, 1)).eval()
    _, files = calibrated(model, tmp_path, [(torch.randn(2, 3, 8, 8),)])
    assert [node.op_type for node in load_model(files.onnx).graph].count("Slice") == 4
    assert not [record for record in caplog.records if record.name.startswith("onnx_ir")]
