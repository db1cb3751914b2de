"""Runs one trace of a model, with its set-up and its findings."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator

from torch import nn
from torch.fx import Graph, GraphModule

from ....torch_torchscript import TracerWarning, seemingly_tracing
from ...user_model.model_state import unchanged
from ..rewrite.assemble import assemble, copy_training
from .dropout import follow_training_mode
from .leaf_hooks import call_twins
from .state import buffers_take_proxies, written_buffers
from .tracer import AmctTracer
from .training import TrainingBranch, TrainingFlag, calls_of, mark_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """The result of one trace.

    Attributes:
      module: The graph with the state of the model.
      tracer: The tracer that made it.
      branches: The places where Python code branched on ``training``.
      calls: If there are such places, a text for each node of the graph as it was traced; else empty.
      make_tracer: Makes another tracer with the same settings.
      has_drawn: Whether the forward has drawn random numbers, which are then constants of the graph.
      changed: Names of the buffers whose memory the forward has changed.
    """

    module: GraphModule
    tracer: AmctTracer
    branches: tuple[TrainingBranch, ...]
    calls: tuple[str, ...]
    make_tracer: Callable[[frozenset[str]], AmctTracer]
    has_drawn: bool
    changed: frozenset[str]


def run(model: nn.Module, make_tracer: Callable[[frozenset[str]], AmctTracer]) -> Trace:
    """Traces ``model`` and restores its state; traces twice if the first trace shows that it changes its buffers.

    Args:
      model: The model.
      make_tracer: Makes the tracer for given names of buffers that the forward changes.
    """
    found, written = _run(model, make_tracer, frozenset())
    if written:
        found, _ = _run(model, make_tracer, written)
    return found


def calls_again(model: nn.Module, trace: Trace) -> tuple[str, ...]:
    """Returns the calls of the graph of ``model`` in its present mode, with a tracer like that of ``trace``.

    If the forward now changes buffers in place that the graph of ``trace`` leaves alone, only these are named: a second
    trace would record the changes, so its calls would differ anyway.
    """
    found, written = _run(model, trace.make_tracer, frozenset())
    changed = found.changed - trace.tracer.written_buffers
    if changed:
        return tuple(f"changes {name}" for name in sorted(changed))
    return calls_of(_run(model, trace.make_tracer, written)[0].module if written else found.module)


def _run(
    model: nn.Module, make_tracer: Callable[[frozenset[str]], AmctTracer], written: frozenset[str]
) -> tuple[Trace, frozenset[str]]:
    try:
        return _run_once(model, make_tracer, written, is_training_marked=True)
    except TypeError as error:
        # C functions (torch.dropout) accept a bool only, no object that behaves like a bool.
        if TrainingFlag.__name__ not in str(error):
            raise
        return _run_once(model, make_tracer, written, is_training_marked=False)


def _run_once(
    model: nn.Module,
    make_tracer: Callable[[frozenset[str]], AmctTracer],
    known_written: frozenset[str],
    is_training_marked: bool,
) -> tuple[Trace, frozenset[str]]:
    tracer = make_tracer(known_written)
    branches: list[TrainingBranch] = []
    with unchanged(model) as state, _tracing_state(), buffers_take_proxies():
        if is_training_marked:
            branches = mark_training(model, tracer.leaves_of(model))
        graph = _without_text_types(tracer.trace(model))
        written, has_drawn = written_buffers(state, model), state.has_drawn
        changed = frozenset(name for name, value in state.buffers.items() if state.is_changed(value))
        tracer.note_replaced(state.replaced_values())
        tracer.record_new_values()
        state.put_back_buffers()
        module = assemble(model, graph, type(model).__name__)
        call_twins(module, tracer.leaf_hooks)
    copy_training(model, module)
    follow_training_mode(module)
    found = Trace(
        module=module,
        tracer=tracer,
        branches=tuple(branches),
        calls=calls_of(module) if branches else (),
        make_tracer=make_tracer,
        has_drawn=has_drawn,
        changed=changed,
    )
    return found, written


def _without_text_types(graph: Graph) -> Graph:
    """Removes annotations that are texts (``from __future__ import annotations``): torch.fx could not pickle them."""
    for node in graph.nodes:
        node.type = None if isinstance(node.type, str) else node.type
    return graph


@contextlib.contextmanager
def _tracing_state() -> Iterator[None]:
    """Returns a context in which models that check whether they are traced find that they are."""
    with seemingly_tracing(), warnings.catch_warnings():
        # Constants are intended here; torch would warn about each len() and iteration.
        warnings.simplefilter("ignore", TracerWarning)
        yield
