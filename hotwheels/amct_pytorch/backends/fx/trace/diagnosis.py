"""Diagnosis: all places in a model that torch.fx cannot trace, not only the first."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from ....errors import UnsupportedModelError
from ....graph import OpGraph
from ....ops.registry import Registry
from ...user_model.float_model import unwrapped
from ..backend import FxBackend
from .trace_errors import TraceProblem, UntraceableError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The problems that traces find in a model.

    Attributes:
      problems: The places that stop a trace, one per class of modules.
      modules: For each problem the paths of all modules of that class; the model itself is ``""``.
      backend: The trace of the rest, in which modules with a problem are leaves; None if the rest cannot be traced.
      graph: The operations of that trace; None without one.
      refusal: Why the trace, though complete, is not the model: the error of the comparison with the model's own
        forward. None if both compute the same, or were not compared.
    """

    problems: tuple[TraceProblem, ...]
    modules: tuple[tuple[str, ...], ...]
    backend: FxBackend | None
    graph: OpGraph | None
    refusal: UnsupportedModelError | None = None


def diagnose(
    model: nn.Module, registry: Registry, inputs: tuple[Any, ...] | None = None, is_placed: bool = False
) -> Diagnosis:
    """Traces copies of ``model``; in each trace the classes that stopped earlier traces are leaves.

    The traces use the example call ``inputs`` if there is one. If the backend ``is_placed`` later, its trace has copies
    of the tensors and is compared with the model; that needs ``inputs``.

    Raises:
      UnsupportedModelError: The model cannot be copied, or is quantized.
    """
    model = unwrapped(model)
    problems: list[TraceProblem] = []
    opaque: dict[type, tuple[str, ...]] = {}
    backend, refusal = None, None
    while backend is None:
        copies = is_placed and not opaque and refusal is None
        try:
            backend = FxBackend(model, registry, frozenset(opaque), copies_tensors=copies, inputs=inputs)
        except UntraceableError as error:
            path = error.problem.module_path
            cls = type(model.get_submodule(path))
            if cls in opaque or not _is_of_its_own(path, opaque):
                break
            problems.append(error.problem)
            opaque[cls] = tuple(name for name, module in model.named_modules() if type(module) is cls)
            if not path:
                break
        except UnsupportedModelError as error:
            if not copies:
                raise
            refusal = error
    graph = None if backend is None else backend.graph()
    modules = tuple(opaque.values())
    return Diagnosis(problems=tuple(problems), modules=modules, backend=backend, graph=graph, refusal=refusal)


def _is_of_its_own(path: str, opaque: dict[type, tuple[str, ...]]) -> bool:
    """Whether a problem in ``path`` is certainly its own, not caused by the result of a leaf inside it."""
    inside = f"{path}." if path else ""
    return not any(one.startswith(inside) for paths in opaque.values() for one in paths)
