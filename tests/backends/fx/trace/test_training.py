"""self.training in a trace: calls with the flag as argument follow its module; branches on the flag are reported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.trace import run
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from tests.support.log_lines import LogLines, log_lines

__all__ = ["log_lines"]

LEAVES = ("torch.nn",)


class Drops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=self.training)


class Scales(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 100 if self.training else x


class AsksOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            pass
        return x * 2


class Around(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


@pytest.fixture(params=[None, (torch.ones(2, 64),)], ids=["stock", "guided"])
def inputs(request: Any) -> Any:
    return request.param


def test_dropout_follows_the_module_it_was_called_in(inputs: Any) -> None:
    model = Around(Drops().eval())  # which was never put to eval itself
    graph, x = trace(model, LEAVES, inputs=inputs), torch.ones(2, 64)
    assert torch.equal(graph(x), x)
    graph.inside.train()
    assert not torch.equal(graph(x), x)
    assert torch.equal(graph.eval()(x), x)


@pytest.mark.parametrize("is_training", [True, False])
def test_branch_that_matters_is_told_with_module_and_line(inputs: Any, is_training: bool, log_lines: LogLines) -> None:
    trace(Around(Scales()).train(is_training), LEAVES, inputs=inputs)
    text = "\n".join(log_lines.warnings)
    assert "branches on self.training" in text
    assert "'inside'" in text
    assert "return x * 100 if self.training else x" in text


def test_a_line_of_many_modules_is_told_once_with_their_number(inputs: Any, log_lines: LogLines) -> None:
    trace(nn.Sequential(*(Scales() for _ in range(20))), LEAVES, inputs=inputs)
    (text,) = log_lines.warnings
    assert "'0', '1', '2' and 17 more: File" in text
    assert text.count("return x * 100 if self.training else x") == 1


def test_branch_that_does_not_matter_is_not_told(inputs: Any, log_lines: LogLines) -> None:
    trace(Around(AsksOnly()), LEAVES, inputs=inputs)
    assert not log_lines.warnings


class Counts(nn.Module):
    """Counts its forwards in training, as BatchNorms written with functions do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.add_(1)
        return x * 2


def traces_of(model: nn.Module, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Traces ``model``; returns how often its forward was traced for that."""
    made: list[Any] = []
    once = run._run_once
    monkeypatch.setattr(run, "_run_once", lambda *args, **kwargs: made.append(args) or once(*args, **kwargs))
    trace(model, LEAVES, inputs=inputs)
    return len(made)


def test_a_buffer_that_only_training_changes_is_told_from_one_trace_of_each_mode(inputs, monkeypatch, log_lines):
    assert traces_of(Around(Counts()).eval(), inputs, monkeypatch) == 2
    (text,) = log_lines.warnings
    assert "'inside': File" in text and "if self.training:" in text


def test_a_buffer_that_both_modes_change_is_compared(inputs, monkeypatch, log_lines):
    class CountsAlways(Counts):
        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1)
            return super().forward(x) if self.training else x * 2

    assert traces_of(CountsAlways().eval(), inputs, monkeypatch) == 4
    assert any("branches on self.training" in text for text in log_lines.warnings)
