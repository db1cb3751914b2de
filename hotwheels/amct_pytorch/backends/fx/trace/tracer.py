"""The tracer: stock ``torch.fx`` with the leaf rule of spec 8.1, and the model left as it was."""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node, Proxy
from torch.fx.proxy import TraceError
from torch.jit._trace import TracerWarning

from ..rewrite.assemble import assemble, copy_training
from ..rewrite.attention import is_attention
from .device_proxy import DeviceProxy
from .dropout import TrainingFlag, follow_training_mode
from .trace_errors import explain
from .user_code import line_being_traced

LeafRule = Callable[[type], bool]

_REGISTRIES = ("_parameters", "_buffers", "_modules")


def trace(model: nn.Module, leaf_packages: Sequence[str], is_leaf_type: LeafRule = lambda _cls: False) -> GraphModule:
    """Returns the static graph of ``model``; it shares modules, parameters and buffers with ``model``.

    Node names are those of a stock trace with the same leaf rule (spec 8.2). Dropout functions become modules which
    follow ``train()``/``eval()``. ``model`` itself is left as it was.

    Args:
      model: Any module; ``forward`` methods set on instances are honoured, of the root too.
      leaf_packages: Packages whose modules are not looked into (capacity row ``LEAF_MODULE_PACKAGES``).
      is_leaf_type: Further module classes that are not looked into; usually ``Registry.is_leaf_type``.

    Raises:
      UnsupportedModelError: The model cannot be traced; the message shows the line and a way to rewrite it.
    """
    tracer = AmctTracer(leaf_packages, is_leaf_type, are_buffers_proxies=False, is_device_known=False)
    try:
        return _trace(model, tracer)
    except Exception as error:  # whatever the user's forward raises when it meets a Proxy
        for are_buffers_proxies in (False, True):
            with contextlib.suppress(Exception):
                return _trace(model, AmctTracer(leaf_packages, is_leaf_type, are_buffers_proxies))
        raise explain(error, tracer.path_of_failure(error)) from error


class AmctTracer(torch.fx.Tracer):
    """A tracer for one model.

    The arguments have defaults because ``torch.fx`` makes tracers of its own when it unpickles a GraphModule.

    Args:
      leaf_packages: See ``trace``.
      is_leaf_type: See ``trace``.
      are_buffers_proxies: Records reading a buffer instead of using its value. A stock trace cannot do
        ``self.table[:, :x.size(1)]`` or ``self.query.expand(x.size(0), -1)``; this can, but operations on buffers
        alone become nodes and shift the numbers in names. So it is the last attempt only, when no stock name exists.
      is_device_known: Takes the model's device for that of traced values, see `DeviceProxy`; also when a stock trace
        fails only.
    """

    def __init__(
        self,
        leaf_packages: Sequence[str] = (),
        is_leaf_type: LeafRule = lambda _cls: False,
        are_buffers_proxies: bool = True,
        is_device_known: bool = True,
    ) -> None:
        """Takes the leaf rule."""
        super().__init__(autowrap_modules=(math,))
        self.leaf_packages = tuple(leaf_packages)
        self.is_leaf_type = is_leaf_type
        self.proxy_buffer_attributes = are_buffers_proxies
        self._is_device_known = is_device_known
        self._failure: tuple[Exception, str] | None = None

    def path_of_failure(self, error: Exception) -> str:
        """Returns the path of the innermost module whose forward raised ``error``; empty for the model itself."""
        return self._failure[1] if self._failure is not None and self._failure[0] is error else ""

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> torch.fx.Node:
        """Records a node, and the user's line it comes from: torch shows it where running the node fails."""
        node = super().create_node(kind, *args, **kwargs)
        # Not torch's record_stack_traces, whose first use imports sympy: 2.8 seconds.
        if kind not in ("placeholder", "output") and (line := line_being_traced()):
            node.stack_trace = line
        return node

    def proxy(self, node: Node) -> Proxy:
        """Returns the Proxy for a new node."""
        return DeviceProxy(node, self) if self._is_device_known else super().proxy(node)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls or records a module, and remembers the one in which an error arises."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            if not self.path_of_failure(error):
                self._failure = (error, self.path_of_module(m))
            raise

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` is one node; a class attribute ``amct_leaf`` decides before the package does."""
        if "forward" in vars(m):
            return False
        explicit = getattr(type(m), "amct_leaf", None)
        if explicit is not None:
            return bool(explicit)
        if is_attention(m):  # of a subclass too: torch.fx cannot follow its forward
            return True
        return self.is_leaf_type(type(m)) or (self._is_in_leaf_package(m) and not isinstance(m, nn.Sequential))

    def _is_in_leaf_package(self, module: nn.Module) -> bool:
        home = f"{type(module).__module__}."
        return any(home.startswith(f"{package}.") for package in self.leaf_packages)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Makes the placeholders; they are the arguments of the forward in force, not of the class's."""
        callee = _callee_in_force(self.root)
        if callee is None or not is_module:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        home = sys.modules.get(getattr(callee, "__module__", None) or "")
        if home is not None:
            self._autowrap_search.append(home)  # as stock does with the globals of the class's forward
        return self._placeholders_of(callee)

    def _placeholders_of(self, callee: Callable[..., Any]) -> tuple[Callable[..., Any], list[Proxy]]:
        parameters = list(inspect.signature(callee).parameters.values())
        proxies = [self._placeholder(parameter) for parameter in parameters]
        keywords = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        split = len(parameters) - len(keywords)

        def call(*values: Any) -> Any:
            return callee(*values[:split], **dict(zip(keywords, values[split:], strict=True)))

        call.__annotations__.clear()  # torch.fx would write ours into the signature of the generated forward

        return call, proxies

    def _placeholder(self, parameter: inspect.Parameter) -> Proxy:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TraceError(f"Proxy object cannot be iterated: '{parameter}' of the forward set on the model.")
        default = () if parameter.default is parameter.empty else (parameter.default,)
        return self.create_proxy("placeholder", parameter.name, default, {})


def _trace(model: nn.Module, tracer: AmctTracer) -> GraphModule:
    try:
        return _trace_once(model, tracer, is_training_marked=True)
    except TypeError as error:
        # C functions (torch.dropout) take a bool and nothing that behaves like one.
        if TrainingFlag.__name__ not in str(error):
            raise
        return _trace_once(model, tracer, is_training_marked=False)


def _trace_once(model: nn.Module, tracer: AmctTracer, is_training_marked: bool) -> GraphModule:
    with _unchanged(model), _tracing_state():
        if is_training_marked:
            _mark_training(model)
        graph = _without_text_types(tracer.trace(model))
        module = assemble(model, graph, type(model).__name__)
    copy_training(model, module)
    follow_training_mode(module)
    return module


def _without_text_types(graph: Graph) -> Graph:
    """Removes annotations that are texts (``from __future__ import annotations``): torch.fx could not pickle them."""
    for node in graph.nodes:
        node.type = None if isinstance(node.type, str) else node.type
    return graph


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Takes back all that a trace leaves on the model: tensor constants, Proxies stored in attributes, marks."""
    saved = [(module, dict(vars(module)), _registries(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, registries in saved:
            _restore(module, attributes, registries)


def _mark_training(model: nn.Module) -> None:
    """Marks ``training`` of all modules, so that the graph shows where its value went."""
    for module in model.modules():
        if "training" in vars(module):
            vars(module)["training"] = TrainingFlag(module.training)


def _registries(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(module)[name]) for name in _REGISTRIES}


def _restore(module: nn.Module, attributes: dict[str, Any], registries: dict[str, dict[str, Any]]) -> None:
    vars(module).clear()
    vars(module).update(attributes)
    for name, content in registries.items():
        vars(module)[name].clear()
        vars(module)[name].update(content)


@contextlib.contextmanager
def _tracing_state() -> Iterator[None]:
    """Lets ``torch._C._get_tracing_state()`` be true, as models expect it which ask whether they are traced."""
    bindings: Any = torch._C
    original = bindings._get_tracing_state
    bindings._get_tracing_state = lambda: True
    try:
        with warnings.catch_warnings():
            # Constants are allowed to be constants here; torch would warn about each len() and iteration.
            warnings.simplefilter("ignore", TracerWarning)
            yield
    finally:
        bindings._get_tracing_state = original


def _callee_in_force(root: nn.Module) -> Callable[..., Any] | None:
    """Returns what calling ``root`` runs where that is not the forward of its class, else None."""
    if type(root).__call__ is nn.Module.__call__ or isinstance(root, GraphModule):
        return vars(root).get("forward")
    call = type(root).__call__.__get__(root)
    return _with_signature(call, root.forward) if _takes_anything(call) else call


def _with_signature(call: Callable[..., Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``call(*args, **kwargs)`` with the arguments that ``forward`` names."""

    def named(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    named.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return named


def _takes_anything(function: Callable[..., Any]) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    return bool(kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
