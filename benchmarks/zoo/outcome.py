"""Outcome: the results of one architecture, as numbers and one-line texts that a JSON file can hold."""

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
    """Results, filled in stage by stage; the fields of stages that failed or did not run stay None.

    Attributes:
      name: The architecture.
      path: ``FX`` or ``dynamic``, according to check_model.
      stage: The stage that failed; empty if none failed.
      error: One line; empty if no stage failed.
      problems: Problems of tracing that check_model reports: the reason and the line.
      quantized: Number of layers that compute on integers.
      integer_share: Share of the multiplications that run on integers; None on the dynamic path.
      float_products: Nodes that multiply in float, with the reason.
      batch_norms: Number of BatchNorms that are not folded, by reason.
      skipped: Number of layers left in float, by reason without names.
      fake_sqnr: Signal to noise ratio of fake_quant against float, dB, of the worst output.
      real_sqnr: The same of real_quant; on the dynamic path of the oracle.
      runtime_sqnr: Of onnxruntime on the fake_quant file against fake_quant in torch; inf where they are equal.
      runtime_layers: Number of layers whose result was compared with onnxruntime's, given the same inputs.
      layer_sqnr: The lowest signal to noise ratio of these layers, dB.
      edges: Number of quantized inputs whose integers all equal the oracle's.
      integers: Number of elements in these inputs.
      seconds: Seconds of each stage.
      commit: The commit of this project with which the network ran.
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
    commit: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether no stage failed."""
        return not self.error

    def write(self, path: Path) -> None:
        """Writes the outcome as JSON, so that readers see the whole file or none."""
        write_text_atomic(path, json.dumps(dataclasses.asdict(self), indent=1))


def read_outcome(path: Path) -> Outcome:
    """Returns what ``Outcome.write`` wrote."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**document)
