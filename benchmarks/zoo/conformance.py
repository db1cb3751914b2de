"""Runs the SDK on one architecture: check_model, then the FX path, or the dynamic path if FX cannot trace it."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import Counter
from pathlib import Path

import hotwheels.amct_pytorch as amct

from . import dynamic_path, static_path
from .architectures import Architecture
from .outcome import DYNAMIC, STATIC, Outcome
from .stages import StageFailed, Stages
from .subject import make_subject


def run(architecture: Architecture) -> Outcome:
    """Returns the outcome of ``architecture``, which contains the error if there was any."""
    outcome = Outcome(name=architecture.name)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StageFailed):
        _run(Stages(outcome), architecture, Path(folder))
    return outcome


def _run(stages: Stages, architecture: Architecture, folder: Path) -> None:
    with stages.stage("build"):
        subject = make_subject(architecture, folder)
    with stages.stage("check_model") as outcome:
        report = amct.check_model(subject.model, input_data=subject.test)
        outcome.path = STATIC if report.is_static_path_possible else DYNAMIC
        outcome.skipped = _by_reason([skip.reason for skip in report.skipped])
        outcome.problems = [_place(problem) for problem in report.problems]
    if not report.is_static_path_possible:
        dynamic_path.run(stages, subject)
        return
    static_path.run(stages, subject)


def _by_reason(reasons: list[str]) -> dict[str, int]:
    """Counts reasons, after replacing the names in them by an ellipsis."""
    return dict(Counter(re.sub("'[^']*'", "'…'", reason) for reason in reasons).most_common())


def _place(problem: amct.ModelProblem) -> str:
    """Returns the reason and the code line, without the folder of the installation."""
    code = problem.place.strip().splitlines()
    return f"{problem.reason}: {code[-1].strip()}" if code else problem.reason
