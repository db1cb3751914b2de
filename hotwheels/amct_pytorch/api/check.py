"""check_model: what the SDK can do with a model, before anything is quantized."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable

from torch import nn

from ..backends.fx.diagnosis import Diagnosis, diagnose
from ..capacity import read_capacity
from ..graph import OpGraph, Skip
from ..ops.registry import Registry
from .arguments import check_model as check_argument

_STATIC = "create_quant_config_fx, create_quant_model_fx, save_quant_model_fx"
_DYNAMIC = "create_quant_config, quantize_model, save_model"
_WIDTH = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelProblem:
    """One place in the source of a model which the static path cannot follow.

    Attributes:
      modules: Paths of the modules it concerns; ``""`` is the model itself.
      error: What Python raised there.
      place: File, line and code, as in a traceback; empty if there is none.
      reason: What the line does that cannot be traced.
      rewrite: What to write instead.
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
    """A layer which a configuration may name.

    Attributes:
      name: Layer name.
      type: Type string of the configuration.
      is_default_enabled: Whether it is quantized unless the configuration says otherwise.
    """

    name: str
    type: str
    is_default_enabled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What ``check_model`` found; ``str()`` of it is the text to read.

    Attributes:
      model: Class of the model.
      problems: What the static path (``create_quant_model_fx``) cannot follow.
      quantizable: Layers that can be quantized, in execution order. With problems: those outside the modules concerned.
      skipped: What stays in float, with the reason.
      is_complete: Whether the whole model was seen. If not, there may be more problems behind those listed.
    """

    model: str
    problems: tuple[ModelProblem, ...]
    quantizable: tuple[CheckedLayer, ...]
    skipped: tuple[Skip, ...]
    is_complete: bool

    @property
    def is_static_path_possible(self) -> bool:
        """Whether ``create_quant_model_fx`` takes the model as it is."""
        return not self.problems

    def __str__(self) -> str:
        on = [layer for layer in self.quantizable if layer.is_default_enabled]
        off = [layer for layer in self.quantizable if not layer.is_default_enabled]
        parts = [
            f"Model {self.model}",
            self._verdict(),
            *(f"Problem {index}. {problem}" for index, problem in enumerate(self.problems, 1)),
            _table("Quantized by default", ((layer.type, layer.name) for layer in on)),
            _table("Quantized if the configuration enables it", ((layer.type, layer.name) for layer in off)),
            _table("In float", ((skip.reason, skip.name) for skip in self.skipped)),
        ]
        return "\n\n".join(part for part in parts if part)

    def _verdict(self) -> str:
        if self.is_static_path_possible:
            return _filled(f"The static path ({_STATIC}) takes it as it is.")
        rest = "" if self.is_complete else " The rest of the model was not seen: check again after the changes."
        return _filled(
            f"The static path ({_STATIC}) cannot follow it: {len(self.problems)} problem(s).{rest} Rewrite the lines"
            f" below. Where that is impossible the dynamic path ({_DYNAMIC}) is the way: it runs the model as it is,"
            " and quantizes operations that are modules."
        )


def check_model(model: nn.Module) -> ModelReport:
    """Returns what can be quantized in ``model``, what stays in float and why, and what cannot be traced.

    Nothing is quantized, and ``model`` is not changed.

    Args:
      model: Float model; no data is needed.

    Raises:
      UnsupportedModelError: The model cannot be copied, or is quantized already.
    """
    model = check_argument("check_model", model)
    found = diagnose(model, Registry(read_capacity()))
    problems = tuple(
        ModelProblem(modules=paths, error=one.error, place=one.place, reason=one.reason, rewrite=one.rewrite)
        for one, paths in zip(found.problems, found.modules, strict=True)
    )
    return ModelReport(
        model=type(model).__name__,
        problems=problems,
        quantizable=() if found.graph is None else _layers(found.graph),
        skipped=() if found.graph is None else _skips(found.graph, found),
        is_complete=found.graph is not None,
    )


def _layers(graph: OpGraph) -> tuple[CheckedLayer, ...]:
    return tuple(
        CheckedLayer(node.name, node.type, node.op is not None and node.op.is_default_enabled)
        for node in graph.quantizable
    )


def _skips(graph: OpGraph, found: Diagnosis) -> tuple[Skip, ...]:
    untraced = {path for paths in found.modules for path in paths}
    return tuple(
        Skip(skip.name, "it cannot be traced, see the problems") if graph[skip.name].module_path in untraced else skip
        for skip in graph.skips
    )


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Names grouped by what they have in common, in the order of the first of each group."""
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
