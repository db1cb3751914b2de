"""Outcome: what came of one architecture, as numbers and one-line texts that a file can hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotwheels.amct_pytorch.files import write_text_atomic

STATIC, DYNAMIC = "FX", "dynamic"


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """Filled in stage by stage; what a failing stage left out stays None.

    Attributes:
      name: The architecture.
      path: ``FX`` or ``dynamic``; what check_model says is possible.
      stage: The stage in which it failed; empty if it came through.
      error: One line; empty if it came through.
      problems: What check_model says FX cannot follow: the reason and the line.
      quantized: Number of layers that compute on integers.
      integer_share: Share of the multiplications that run on integers; None on the dynamic path.
      float_products: What multiplies in float, by node, with the reason.
      batch_norms: Number of BatchNorms that are not folded, by reason.
      skipped: Number of layers left in float by reason, names left out of the reason.
      fake_sqnr: Signal to noise ratio of fake_quant against float, dB, of the worst output.
      real_sqnr: The same of real_quant; on the dynamic path of the oracle.
      runtime_sqnr: Of onnxruntime on the fake_quant file against fake_quant in torch; inf where they are equal.
      runtime_layers: Number of layers of which onnxruntime's result was compared, given the same inputs.
      layer_sqnr: The lowest signal to noise ratio of these, dB.
      edges: Number of quantized inputs of which all integers equal the oracle's.
      integers: Number of elements in them.
      seconds: By stage.
    """

    name: str
    path: str = STATIC
    stage: str = ""
    error: str = ""
    problems: list[str] = dataclasses.field(default_factory=list)
    quantized: int | None = None
    integer_share: float | None = None
    float_products: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch_norms: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fake_sqnr: float | None = None
    real_sqnr: float | None = None
    runtime_sqnr: float | None = None
    runtime_layers: int | None = None
    layer_sqnr: float | None = None
    edges: int | None = None
    integers: int | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def has_passed(self) -> bool:
        """Whether every stage came through."""
        return not self.error

    def write(self, path: Path) -> None:
        """Writes it as JSON, so that readers see all of it or nothing."""
        write_text_atomic(path, json.dumps(dataclasses.asdict(self), indent=1))


def read_outcome(path: Path) -> Outcome:
    """Returns what ``Outcome.write`` wrote."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**document)
