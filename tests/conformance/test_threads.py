"""Threads that do more than evaluate one model: each has a model of its own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conformance.subject import DYNAMIC, FX, PTQ, QAT, Subject, calibrated, float_net


@pytest.mark.parametrize("use", [PTQ, QAT])
@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_models_are_quantized_and_calibrated_in_threads(path: str, use: str, tmp_path: Path) -> None:
    """torch's exporter refuses to run twice at once, so the dynamic path takes turns."""
    made: dict[int, nn.Module] = {}
    floats = [float_net() for _ in range(3)]
    subjects = [Subject(path, use, tmp_path / str(index)) for index in range(4)]
    for one in subjects:
        one.folder.mkdir()

    def work(index: int) -> None:
        made[index] = subjects[index].make(floats[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    expected = calibrated(subjects[3]).state_dict()
    for index in range(3):
        found = calibrated(subjects[index], made[index]).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
