"""Advice: the recommendations for a model, as values (docs/advice.md).

The rules come from the FAQ of HiSilicon's AMCT manual.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

Document = Mapping[str, Any]  # a simple configuration (spec 8.5), which create_quant_config_fx takes as a yaml file


class AdviceRule(enum.Enum):
    """The subject of a piece of advice; the value is its name in reports and in the log."""

    NO_EFFECT = "operation without effect"
    OFFLINE_CONVOLUTION = "offline convolution"
    CHUNK = "chunk instead of split"
    SIBLINGS = "siblings on different grids"
    MATMUL_SECOND_INPUT = "wide second input of a matmul"
    RANGES = "inputs of very different ranges"

    @property
    def source(self) -> str:
        """Chapter of HiSilicon's AMCT manual, its Chinese title in brackets; empty if the manual has none."""
        return _SOURCES[self]

    @property
    def is_about_converter(self) -> bool:
        """Whether the converter may refuse the model; the other rules are about accuracy."""
        return self in (AdviceRule.OFFLINE_CONVOLUTION, AdviceRule.SIBLINGS)


_SOURCES = {
    AdviceRule.NO_EFFECT: '"Operations without effect lose accuracy" [避免在pytorch模型脚本中引入无效的操作导致掉点]',
    AdviceRule.OFFLINE_CONVOLUTION: '"The converter fails on offline convolutions" [离线计算卷积量化后转om报错]',
    AdviceRule.CHUNK: '"Operators that ONNX splits" [onnx算子拆分场景说明]',
    AdviceRule.SIBLINGS: (
        '"The converter fails on siblings with different factors" [兄弟节点量化系数不一致导致atc报错]'
    ),
    AdviceRule.MATMUL_SECOND_INPUT: (
        '"A wide second input of a matmul loses accuracy" [mamtul第二路值域较宽导致掉点问题]'
    ),
    AdviceRule.RANGES: "",
}


@dataclasses.dataclass(frozen=True)
class Remedy:
    """One possible change of model or configuration.

    Attributes:
      text: The change, as an imperative sentence without a full stop.
      settings: The simple configuration that makes the change, or that the changed model needs; None if there is none.
    """

    text: str
    settings: Document | None = None

    @property
    def yaml(self) -> str | None:
        """The settings as a yaml file for ``create_quant_config_fx``; None without settings."""
        return None if self.settings is None else yaml.safe_dump(plain(self.settings), sort_keys=False)

    def __str__(self) -> str:
        if self.settings is None:
            return f"{self.text}."
        flow = yaml.safe_dump(plain(self.settings), sort_keys=False, default_flow_style=True, width=math.inf)
        return f"{self.text}: {flow.strip()}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """One piece of advice.

    Attributes:
      rule: The subject.
      layers: Names of the layers and nodes concerned, in graph order.
      finding: The observation, a sentence without a full stop.
      reason: The harm done, a sentence without a full stop.
      remedies: Possible changes, the best first; any of them is enough.
    """

    rule: AdviceRule
    layers: tuple[str, ...]
    finding: str
    reason: str
    remedies: tuple[Remedy, ...]

    @property
    def yaml(self) -> str | None:
        """The first remedy's simple configuration, as text; None if no remedy has one."""
        return next((one.yaml for one in self.remedies if one.settings is not None), None)

    def __str__(self) -> str:
        """Returns one line, for the log."""
        remedies = " Or: ".join(str(one) for one in self.remedies)
        return f"Advice, {self.rule.value}: {self.finding}. {self.reason}{self._manual}. Do: {remedies}"

    def report(self, number: int, width: int) -> str:
        """Returns several lines of at most ``width``: finding and reason, then each remedy with its yaml as a block."""
        title = f"Advice {number}. {self.rule.value.capitalize()}: {', '.join(self.layers)}"
        lines = [title, f"{self.finding}.", f"{self.reason}{self._manual}."]
        for index, remedy in enumerate(self.remedies):
            end = "." if remedy.yaml is None else ":"
            lines.append(f"{'Or: ' if index else 'Do: '}{remedy.text}{end}")
            lines += [textwrap.indent(remedy.yaml.rstrip(), " " * 4)] if remedy.yaml else []
        return "\n".join(one if one.startswith(" ") else _filled(one, width) for one in lines)

    @property
    def _manual(self) -> str:
        return f" (HiSilicon's AMCT manual, chapter {self.rule.source})" if self.rule.source else ""


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def plain(value: Any) -> Any:
    """Returns ``value`` with lists and dicts for tuples and other mappings, copied, so that yaml writes no anchors."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
