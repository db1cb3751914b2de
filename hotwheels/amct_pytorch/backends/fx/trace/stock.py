"""Traces without an example: Proxies have no values, as in stock torch.fx."""

from __future__ import annotations

import functools

from torch import nn
from torch.fx import GraphModule

from ....log import get_logger
from .frozen import add_check
from .own_errors import is_own_mistake, with_place
from .run import Trace, calls_again, run
from .trace_errors import WITH_EXAMPLE, explain
from .tracer import AmctTracer, LeafRules
from .training import tell_branches

_log = get_logger(__name__)


def trace_stock(model: nn.Module, rules: LeafRules) -> GraphModule:
    """Returns the static graph of ``model``.

    1. A stock trace: every argument of the forward is a Proxy.
    2. If that fails or branches on arguments with a default (``mask=None``): these arguments get their default.
    3. If both fail, both are repeated with the model's device for every value, then with buffers as Proxies.

    Raises:
      UnsupportedModelError: No trace succeeds; the error is that of the first one.
    """
    attempts = _Attempts(model, rules)
    for are_buffers_proxies, is_device_known in ((False, False), (False, True), (True, True)):
        found = attempts.best(are_buffers_proxies, is_device_known)
        if found is not None:
            if found.has_drawn:
                _log.warning(
                    "The forward of %s draws random numbers, which are constants of the traced graph. %s",
                    type(model).__name__,
                    WITH_EXAMPLE,
                )
            tell_branches(model, found.branches, found.calls, functools.partial(calls_again, model, found))
            return found.module
    error, path = attempts.failures[0]
    if is_own_mistake(error):
        raise with_place(error, model, path)
    raise explain(error, path) from error


class _Attempts:
    """The traces of one model, with the errors of failed traces."""

    def __init__(self, model: nn.Module, rules: LeafRules) -> None:
        self._model = model
        self._rules = rules
        self.failures: list[tuple[Exception, str]] = []

    def best(self, are_buffers_proxies: bool, is_device_known: bool) -> Trace | None:
        """Returns the trace with arguments as Proxies or at their defaults; None if both fail."""
        proxies = self._trace(are_buffers_proxies, is_device_known, takes_defaults=False)
        if proxies is not None and not _optional_arguments(proxies):
            return proxies
        defaults = self._trace(are_buffers_proxies, is_device_known, takes_defaults=True)
        if defaults is None or not _reads_an_input(defaults):
            return proxies
        if proxies is not None and _calls(proxies) == _calls(defaults):
            return proxies  # the arguments are only passed on, e.g. a mask to an attention
        _fix(defaults)
        return defaults

    def _trace(self, are_buffers_proxies: bool, is_device_known: bool, takes_defaults: bool) -> Trace | None:
        tracers: list[AmctTracer] = []

        def make_tracer(written_buffers: frozenset[str]) -> AmctTracer:
            tracer = AmctTracer(self._rules, are_buffers_proxies, is_device_known, takes_defaults, written_buffers)
            tracers.append(tracer)
            return tracer

        try:
            return run(self._model, make_tracer)
        except Exception as error:  # the user's forward may raise anything when it gets a Proxy
            self.failures.append((error, tracers[-1].path_of_failure(error)))
            return None


def _optional_arguments(trace: Trace) -> bool:
    """Whether a caller may omit arguments on which a forward branches."""
    arguments = [node for node in trace.module.graph.nodes if node.op == "placeholder"]
    return any(str(one.target).startswith("*") or trace.tracer.has_default(one) for one in arguments)


def _reads_an_input(trace: Trace) -> bool:
    return any(node.op == "placeholder" and node.users for node in trace.module.graph.nodes)


def _calls(trace: Trace) -> list[tuple[str, str]]:
    return [(node.name, str(node.target)) for node in trace.module.graph.nodes if node.op != "placeholder"]


def _fix(trace: Trace) -> None:
    """Logs which arguments are fixed, and adds checks of them to the graph."""
    graph = trace.module.graph
    for node in trace.tracer.defaults:
        if node.graph is not graph or node.users:
            continue
        default = node.args[0]
        _log.warning(
            "The argument '%s' of forward is fixed to its default, %r, because the forward branches on it. %s",
            node.target,
            default,
            WITH_EXAMPLE,
        )
        what = f"The argument '{node.target}' is fixed, as the forward branches on it. {WITH_EXAMPLE}"
        add_check(graph, node, default, what)
    trace.module.recompile()
