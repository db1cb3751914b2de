"""ModelReport: the result of check_model, as values and as a text to read."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable

from ...graph import Skip
from ...plan.advice import Advice
from ...plan.integer_share import IntegerShare

_STATIC = "create_quant_config_fx, create_quant_model_fx, save_quant_model_fx"
_DYNAMIC = "create_quant_config, quantize_model, save_model"
_WIDTH = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelProblem:
    """One place in the source of a model that cannot be traced.

    Attributes:
      modules: Paths of the modules concerned; ``""`` is the model itself.
      error: The error that Python raised there.
      place: File, line and code, as in a traceback; empty if not known.
      reason: Why the line cannot be traced.
      rewrite: How to rewrite the line.
    """

    modules: tuple[str, ...]
    error: str
    place: str
    reason: str
    rewrite: str

    def __str__(self) -> str:
        names = ", ".join(name or "the model itself" for name in self.modules)
        where = f"{self.place}\n" if self.place else ""
        return f"In {names}: {self.error}\n{where}Reason: {self.reason}.\nRewrite: {self.rewrite}"


@dataclasses.dataclass(frozen=True)
class CheckedLayer:
    """A layer for which a configuration may have an entry.

    Attributes:
      name: Layer name.
      type: Type string of the configuration.
      is_default_enabled: Whether the default configuration quantizes the layer.
    """

    name: str
    type: str
    is_default_enabled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReport:
    """The result of ``check_model``; ``str(report)`` is the text to read.

    Attributes:
      model: Class of the model.
      problems: The places that the static path (``create_quant_model_fx``) cannot trace.
      quantizable: Layers that can be quantized, in execution order; with problems, only layers outside the modules
        concerned.
      skipped: The nodes that stay in float, with the reason.
      advice: Recommended changes of the model or of its configuration.
      batch_norms: The BatchNorms that are not folded into a weight, with the reason.
      multiplications: Which multiplications run on integers, with the default configuration or, for a quantized model,
        its own; None without inputs.
      is_complete: Whether the whole model was traced. If not, there may be more problems than those listed.
      is_quantized: Whether the model is quantized; ``is_default_enabled`` then means that the layer is quantized.
    """

    model: str
    problems: tuple[ModelProblem, ...]
    quantizable: tuple[CheckedLayer, ...]
    skipped: tuple[Skip, ...]
    advice: tuple[Advice, ...] = ()
    batch_norms: tuple[Skip, ...] = ()
    multiplications: IntegerShare | None = None
    is_complete: bool = True
    is_quantized: bool = False

    @property
    def is_static_path_possible(self) -> bool:
        """Whether ``create_quant_model_fx`` accepts the model without changes."""
        return not self.problems

    @property
    def is_on_integers(self) -> bool:
        """Whether 99.9 % of the multiplications run on integers and no foldable BatchNorm is left; True if unknown."""
        return self.multiplications is None or self.multiplications.is_sufficient

    def __str__(self) -> str:
        on = [layer for layer in self.quantizable if layer.is_default_enabled]
        off = [layer for layer in self.quantizable if not layer.is_default_enabled]
        parts = [
            f"Model {self.model}",
            self._verdict(),
            *self._measured(),
            *(f"Problem {index}. {problem}" for index, problem in enumerate(self.problems, 1)),
            *(advice.report(number, _WIDTH) for number, advice in enumerate(self.advice, 1)),
            _table(self._title_of_enabled, ((layer.type, layer.name) for layer in on)),
            _table("Quantized if the configuration enables it", ((layer.type, layer.name) for layer in off)),
            _table("In float", ((skip.reason, skip.name) for skip in self.skipped)),
            _table("BatchNorms that are not folded", ((skip.reason, skip.name) for skip in self.batch_norms)),
        ]
        return "\n\n".join(part for part in parts if part)

    def _measured(self) -> list[str]:
        """Returns the share of the multiplications on integers, and the multiplications in float with the reason."""
        found = self.multiplications
        if found is None:
            return []
        rows = ((f"{found.reasons[name]}", name) for name in found.floating)
        missing = "" if found.is_sufficient else f" That is not enough. {found.shortcomings}"
        return [_filled(f"{found}.{missing}"), *filter(None, [_table("Multiplications in float", rows)])]

    @property
    def _title_of_enabled(self) -> str:
        return "Quantized" if self.is_quantized else "Quantized by default"

    def _verdict(self) -> str:
        if self.is_quantized:
            return "It is quantized and calibrated."
        if self.is_static_path_possible:
            return _filled(f"The static path ({_STATIC}) takes it as it is.")
        rest = "" if self.is_complete else " The rest of the model was not seen: check again after the changes."
        return _filled(
            f"The static path ({_STATIC}) cannot follow it: {len(self.problems)} problem(s).{rest} Rewrite the lines"
            f" below. If that is impossible, use the dynamic path ({_DYNAMIC}): it runs the model without tracing, and"
            " quantizes operations that are modules."
        )


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Returns the names grouped by the first element of each row; groups and names keep the order of ``rows``."""
    groups: dict[str, list[str]] = {}
    for group, name in rows:
        groups.setdefault(group, []).append(name)
    if not groups:
        return ""
    count = sum(len(names) for names in groups.values())
    lines = (_filled(f"{group} ({len(names)}): {', '.join(names)}", "  ") for group, names in groups.items())
    return "\n".join((f"{title}: {count}", *lines))


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent * 2, break_long_words=False)
