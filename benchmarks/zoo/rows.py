"""The rows of docs/zoo.md in a file: a whole run takes hours, so a run of a few networks renews only their rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hotwheels.amct_pytorch.files import write_text_atomic

from .architectures import ARCHITECTURES
from .outcome import Outcome

ROWS = Path(__file__).with_name("rows.jsonl")


def read_rows(path: Path = ROWS) -> dict[str, Outcome]:
    """Returns the outcomes in ``path`` by name, without those of networks that are no longer in the zoo."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [Outcome(**json.loads(line)) for line in lines]
    return {one.name: one for one in found if one.name in ARCHITECTURES}


def join_rows(old: Mapping[str, Outcome], new: Iterable[Outcome]) -> list[Outcome]:
    """Returns one outcome for each network, ``new`` before ``old``, in the order of the zoo."""
    joined = {**old, **{one.name: one for one in new}}
    return [joined[name] for name in ARCHITECTURES if name in joined]


def write_rows(outcomes: Iterable[Outcome], path: Path = ROWS) -> None:
    """Writes one line for each outcome."""
    write_text_atomic(path, "".join(f"{json.dumps(dataclasses.asdict(one))}\n" for one in outcomes))
