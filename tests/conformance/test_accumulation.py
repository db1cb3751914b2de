"""Gradients that are accumulated over micro-batches: LNQ counts steps, LUQ's ends learn as from the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hotwheels.amct_pytorch as amct
from tests.conformance.subject import DYNAMIC, FX, QAT, Subject, batch, calibrated, labels

PATHS = pytest.mark.parametrize("path", [FX, DYNAMIC])
MICRO = 4


@PATHS
def test_lnq_counts_optimizer_steps(path: str, tmp_path: Path) -> None:
    """Not micro-batches, evaluations in between, second forwards of a batch or forwards without gradients."""
    model = calibrated(Subject(path, QAT, tmp_path))
    clusters = model.get_submodule("amct_layers.conv3.weight")
    before = int(clusters.training_forwards)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(4):
        for micro in range(MICRO):
            model.train()
            x, y = batch(step * MICRO + micro), labels(step * MICRO + micro)
            (F.cross_entropy(model(x), y) + F.cross_entropy(model(x.flip(-1)), y)).backward()
            with torch.no_grad():
                model(x)
            model.eval()
            with torch.no_grad():
                model(x)
        optimizer.step()
        optimizer.zero_grad()
    assert int(clusters.training_forwards) - before == 4


@PATHS
def test_accumulated_gradients_are_those_of_the_joined_batch(path: str, tmp_path: Path) -> None:
    """Those of LUQ's ends by the line that docs/qat.md gives; all others as they are."""
    model = calibrated(Subject(path, QAT, tmp_path)).train()
    amct.freeze_batch_norm(model)
    xs, ys = [batch(seed) for seed in range(MICRO)], [labels(seed) for seed in range(MICRO)]
    F.cross_entropy(model(torch.cat(xs)), torch.cat(ys)).backward()
    expected = gradients(model)
    model.zero_grad()
    for x, y in zip(xs, ys, strict=True):
        F.cross_entropy(model(x), y).div(MICRO).backward()
    raw = gradients(model)
    for name, p in model.named_parameters():
        if ".activation." in name and name.endswith(".max_value") and p.grad is not None:
            p.grad /= MICRO**0.5
    found = gradients(model)
    moved = [name for name in raw if not torch.equal(raw[name], found[name])]
    assert moved == ["amct_layers.fc.activation.0.max_value"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
