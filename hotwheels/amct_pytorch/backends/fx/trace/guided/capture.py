"""trace_guided: traces a model with an example; the graph works for every batch size."""

from __future__ import annotations

import dataclasses
import functools

from torch import nn
from torch.fx import GraphModule

from .....errors import TorchVersionError, UnsupportedModelError
from .....log import get_logger
from ....batches.example import Example
from ..run import Trace, calls_again, run
from ..trace_errors import explain
from ..tracer import LeafRules, callee_in_force
from ..training import tell_branches
from .arguments import fake_arguments, refuse_objects, with_named_keywords
from .batch import BatchError, free_batch_size, has_sized_constants, mark_fixed
from .finish import finish
from .tracer import GuidedTracer

_log = get_logger(__name__)
_GIVEN_TWICE = "got multiple values for argument"

# Two sizes to compare and one as proof; not 1, which squeeze and broadcasting treat differently. Others are tried if
# the model has kept one of the sizes from an earlier forward, and takes a shorter way at it.
_SIZES = ((2, 3, 5), (7, 11, 13))


class GuidedTraces:
    """Traces of one model that follow one example, at several batch sizes."""

    def __init__(self, model: nn.Module, rules: LeafRules, example: Example) -> None:
        """Binds the example to the forward; UnsupportedModelError if it does not fit."""
        self._model = model
        self._rules = rules
        forward = callee_in_force(model) or model.forward
        self._arguments = example.arguments(with_named_keywords(forward, example))
        self._example = example
        refuse_objects(self._arguments)
        self._batch_size = example.batch_size
        self._recorded_makers: frozenset[int] = frozenset()  # see `GuidedTracer`
        self._traces: dict[tuple[int | None, bool], Trace] = {}

    def at(self, batch_size: int | None, records_constants: bool = False) -> Trace:
        """Returns the trace with ``batch_size`` samples, made once; None means as many samples as the example has.

        ``records_constants`` is a setting of `GuidedTracer`.

        Raises:
          UnsupportedModelError: The model cannot be traced.
        """
        key = batch_size, records_constants
        if key not in self._traces:
            self._traces[key] = self._made(*key)
        return self._traces[key]

    def _made(self, batch_size: int | None, records_constants: bool) -> Trace:
        batch = None if batch_size is None or self._batch_size is None else (self._batch_size, batch_size)
        tracers: list[GuidedTracer] = []

        def make_tracer(written_buffers: frozenset[str]) -> GuidedTracer:
            tracers.append(
                GuidedTracer(
                    self._rules,
                    lambda evaluator: fake_arguments(self._arguments, evaluator, batch),
                    written_buffers,
                    records_constants,
                    self._example,
                    self._recorded_makers,
                )
            )
            return tracers[-1]

        while True:
            try:
                trace = run(self._model, make_tracer)
            except TorchVersionError:
                raise
            except Exception as error:  # the user's forward may raise anything
                if not tracers or tracers[-1].changed_makers <= self._recorded_makers:
                    path = tracers[-1].path_of_failure(error) if tracers else ""
                    raise explain(error, path, has_example=True) from error
            else:
                if tracers[-1].changed_makers <= self._recorded_makers:
                    return trace
            self._recorded_makers |= tracers[-1].changed_makers


def trace_guided(model: nn.Module, rules: LeafRules, example: Example) -> GraphModule:
    """Returns the static graph of ``model`` as it runs on ``example``, for any batch size.

    Every node has ``meta["val"]``, its value: a fake tensor, a number or a container.

    Raises:
      UnsupportedModelError: The model cannot be traced, or computes differently for different batch sizes.
    """
    try:
        return _traced(model, rules, example)
    except UnsupportedModelError as error:
        # A decorator of the forward sets an argument by its name, as those of Hugging Face's transformers do.
        if example.is_bare or not isinstance(error.__cause__, TypeError) or _GIVEN_TWICE not in str(error.__cause__):
            raise
        return _traced(model, rules, dataclasses.replace(example, is_bare=True))


def _traced(model: nn.Module, rules: LeafRules, example: Example) -> GraphModule:
    traces = GuidedTraces(model, rules, example)
    try:
        first = _free(traces, *_SIZES[0])
    except BatchError as error:
        try:
            first = _free(traces, *_SIZES[1])
        except BatchError:
            raise UnsupportedModelError(str(error)) from error
    except UnsupportedModelError as error:
        first = traces.at(None)  # raises the error of the user's own call
        _log.warning(
            "The model is traced for batches of %s only, the size of the example, as it does not take others: %s",
            example.batch_size,
            str(error).splitlines()[0],
        )
    tell_branches(model, first.branches, first.calls, functools.partial(calls_again, model, first))
    return finish(first)


def _free(traces: GuidedTraces, *sizes: int) -> Trace:
    """Returns the trace with numbers that grow with the batch replaced, so that the graph works for any batch size.

    Raises:
      BatchError: The forward computes differently for these batch sizes.
      UnsupportedModelError: It cannot be traced at the first of them.
    """
    first = traces.at(sizes[0])
    if any(not one.is_count_of_parts or one.value % sizes[0] == 0 for one in first.tracer.guards.guards):
        try:
            first = _compared(first, traces, sizes, records_constants=False)
        except BatchError:  # a constant may have the batch size in its shape
            first = _compared(traces.at(sizes[0], True), traces, sizes, records_constants=True)
    if has_sized_constants(first.module.graph):
        mark_fixed(first, traces.at(sizes[1]))
    return first


def _compared(first: Trace, traces: GuidedTraces, sizes: tuple[int, ...], records_constants: bool) -> Trace:
    one, other, proof = sizes
    if free_batch_size(first, traces.at(other, records_constants), (one, other)):
        free_batch_size(first, traces.at(proof, records_constants), (one, proof), is_proof=True)
    return first
