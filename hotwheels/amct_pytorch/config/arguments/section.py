"""Section: one quantizer with its arguments as written in a document, before defaults and checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..layers.quant_config import QuantizerConfig
from .coercion import as_object, as_text, report_unknown

_KEYS = ("quantizer", "quantizer_args")


@dataclasses.dataclass(frozen=True)
class Section:
    """One ``weight_quant_params``, or one entry of ``activation_quant_params``.

    Attributes:
      quantizer: None takes the quantizer of the next lower level.
      args: Arguments as in the file, unchecked; empty means the algorithm's defaults.
    """

    quantizer: str | None = None
    args: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def over(self, lower: QuantizerConfig) -> QuantizerConfig:
        """Returns this section's settings, with the quantizer of ``lower`` if this section names none.

        Arguments of ``lower`` are dropped: they were written for its algorithm.
        """
        return QuantizerConfig(self.quantizer or lower.quantizer, dict(self.args))


def read_section(value: object, where: str) -> Section:
    """Returns the section that an object in a document describes; messages begin with ``where``.

    Raises:
      ConfigError: A key has a value of the wrong type.
    """
    given = as_object(value, where)
    report_unknown(given, _KEYS, where)
    name = given.get("quantizer")
    return Section(
        None if name is None else as_text(name, f"{where}: quantizer"),
        dict(as_object(given.get("quantizer_args"), f"{where}: quantizer_args")),
    )
