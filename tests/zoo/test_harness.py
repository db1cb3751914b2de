from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.zoo import conformance, report, stages
from benchmarks.zoo.architectures import Architecture
from benchmarks.zoo.outcome import Outcome, read_outcome
from benchmarks.zoo.preparation import images, prepare
from benchmarks.zoo.processes import run_all
from benchmarks.zoo.rows import join_rows, read_rows, write_rows
from tests.support.fixtures import one_thread

__all__ = ["one_thread"]


class Refused(nn.Module):
    """Comes through until ONNX has no operation for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(self.conv(x))


def test_failure_is_noted_with_its_stage_and_what_came_before() -> None:
    outcome = conformance.run(Architecture("refused", "here", Refused, 16))
    assert (outcome.stage, outcome.quantized, outcome.edges) == ("export", 1, None)
    assert outcome.error.startswith("ExportError: 'special_i0': The model cannot be exported to ONNX")
    assert "\n" not in outcome.error
    assert outcome.fake_sqnr is not None


def test_constant_output_of_a_float_network_is_a_failure() -> None:
    dead = Architecture("dead", "here", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Hardtanh(-2, -1)), 16)
    assert conformance.run(dead).error.startswith("ConformanceError: A float output has one value everywhere")


def test_line_of_an_error_names_no_folder_of_a_machine() -> None:
    error = ValueError('bad\n  File "/home/me/.venv/lib/python3.11/site-packages/timm/net.py", line 7')
    assert stages.one_line(error) == 'ValueError: bad File "timm/net.py", line 7'


def test_process_that_dies_or_does_not_end_is_an_outcome(tmp_path: Path) -> None:
    found: list[Outcome] = []
    run_all(["no such network"], tmp_path, 1, 60.0, found.append)
    run_all(["resnet18"], tmp_path, 1, 0.01, found.append)
    errors = [(one.name, one.stage, one.error) for one in found]
    assert errors == [
        ("no such network", "process", "The process died: exit status 1."),
        ("resnet18", "process", "It had not ended after 0 s."),
    ]
    assert read_outcome(tmp_path / "resnet18.json") == found[1]


def test_report_hides_no_failure(tmp_path: Path) -> None:
    good = Outcome(
        name="resnet18",
        quantized=40,
        integer_share=1.0,
        skipped={"why": 3},
        edges=48,
        fake_sqnr=17.0,
        seconds={"build": 1.0},
        commit="abc1234",
    )
    bad = Outcome(name="swin", stage="oracle", error="ConformanceError: 1 differences", edges=45)
    report.write([good, bad], tmp_path / "zoo.md")
    text = (tmp_path / "zoo.md").read_text()
    assert "1 of 2 networks of torchvision, timm, ultralytics, transformers and" in text
    assert "| swin | torchvision | FX | - | - | - | - | - | - | differs | - | - | 0 | - | FAILS in oracle |" in text
    assert "- swin: oracle: ConformanceError: 1 differences" in text
    assert "| resnet18 | torchvision | FX | 40 | 100.00 % | 0 | 3a | 17.0 |" in text
    assert "| a | why | 3 | 1 |" in text
    assert "again: 1 on abc1234, 1 on an unknown commit." in text


def test_rows_stay_until_their_network_runs_again(tmp_path: Path) -> None:
    old = [Outcome(name=name, commit="old") for name in ("resnet50", "alexnet", "no longer in the zoo")]
    write_rows(old, tmp_path / "rows.jsonl")
    joined = join_rows(
        read_rows(tmp_path / "rows.jsonl"), [Outcome(name="resnet50", commit="new"), Outcome(name="swin")]
    )
    assert [(one.name, one.commit) for one in joined] == [("alexnet", "old"), ("resnet50", "new"), ("swin", "")]


def test_prepared_network_has_statistics_and_no_constant_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.2), nn.ReLU())
    x = images(4, (24, 32), seed=0)
    assert x.shape == (4, 3, 24, 32)
    assert torch.equal(x, images(4, (24, 32), seed=0))
    prepare(model, [x])
    conv, norm = model[0], model[1]
    values = conv(x)
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)))
    assert norm.momentum == 0.2
    assert not model.training
    assert all(one.std() > 0 for one in model.parameters())
