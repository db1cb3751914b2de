"""GuidedTracer: records the calls of a forward and evaluates each on the example first."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.proxy import TraceError

from .....torch_private import as_script_method
from ....batches.example import Example
from ....calls.autograd_call import AutogradCall
from ....real_quant.known import is_known
from ..changed_parameters import refuse_change
from ..random_calls import is_random
from ..tracer import AmctTracer, LeafRules
from .arguments import as_example_calls, omitted, with_named_keywords
from .evaluation import Evaluator, Result, leaves
from .patches import patched
from .proxies import PROXY_TYPES, GuidedProxy, proxies_in, values_of

FUNCTIONS = "amct_functions"  # the submodule that holds the AutogradCalls
VALUE = "val"  # torch's own key for a node's value: a fake tensor or a number
WRITES = "amct_writes"  # the nodes whose memory a node changes
_COMPARISONS = (operator.eq, operator.ne)
_MAKERS = frozenset({torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.linspace, torch.eye})


class GuidedTracer(AmctTracer):
    """Traces one model with one example.

    Node names are those of a stock trace, since the same calls are recorded in the same order. After the trace each
    node has ``meta["val"]`` and, if it changes memory, ``meta["amct_writes"]``.

    Attributes:
      evaluator: Evaluates calls.
      is_over: Whether the trace has ended, so that its Proxies return no values any more.
      changed_makers: Numbers of the calls that made a tensor without traced values which the graph then writes to
        (``z = torch.zeros(4); z[0] = x``). A constant would keep what is written; the call belongs into the graph.
    """

    def __init__(
        self,
        rules: LeafRules,
        make_arguments: Callable[[Evaluator], dict[str, Any]],
        written_buffers: frozenset[str] = frozenset(),
        records_constants: bool = False,
        example: Example | None = None,
        recorded_makers: frozenset[int] = frozenset(),
    ) -> None:
        """Takes the settings and makes the arguments of the forward.

        Args:
          rules: See `AmctTracer`.
          make_arguments: Returns the arguments by name: fake tensors, numbers, and containers of these.
          written_buffers: See `AmctTracer`.
          records_constants: Records calls that make a tensor of Python numbers (``torch.zeros(2, 4)``), to find out
            whether a number depends on the batch. A stock trace does not, so names may differ.
          example: The call; each entry of ``**kwargs`` is an argument of the graph.
          recorded_makers: Numbers of calls without traced values that are recorded all the same; see `changed_makers`.
        """
        super().__init__(rules, are_buffers_proxies=False, is_device_known=False, written_buffers=written_buffers)
        self.evaluator = Evaluator()
        self.is_over = False
        self.records_constants = records_constants
        self._arguments = make_arguments(self.evaluator)
        self._example = example or Example(())
        self._omitted: frozenset[str] = frozenset()  # arguments that are not passed to the forward
        self.changed_makers: set[int] = set()
        self._recorded_makers = recorded_makers
        self._unrecorded = 0  # calls without traced values so far
        self._fed: set[Node] = set()  # nodes that depend on an input of the model
        self._compared: dict[Node, list[Any]] = {}  # with which lists and tuples a node compares a traced value
        self._changed: dict[int, tuple[Tensor, GuidedProxy]] = {}  # constants that the graph writes to

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: Any = None) -> Graph:
        """Returns the graph of ``root``."""
        try:
            with patched(self), torch.no_grad():  # a checkpoint then only calls its function
                graph = super().trace(root, concrete_args)
                self.guards.confirm()
        finally:
            self.is_over = True
        return graph

    def is_fed(self, node: Node) -> bool:
        """Whether the value of ``node`` depends on an input of the model."""
        return node in self._fed

    def ask(self, kind: str, proxy: GuidedProxy, value: Any) -> Any:
        """Returns ``value`` and notes that the user's code has read it from ``proxy``."""
        if not self.evaluator.is_running and not self.is_over:
            self.guards.ask(kind, proxy, value)
        return value

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **more: Any) -> Node:
        """Records a node; the value of a node that reads a parameter, buffer or constant is its fake."""
        self.guards.confirm()
        node = super().create_node(kind, target, args, kwargs, *others, **more)
        if kind == "get_attr":
            node.meta[VALUE] = self._fake_of(_attribute(self.root, target))
        if kind == "placeholder" or any(one in self._fed for one in node.all_input_nodes):
            self._fed.add(node)
        return node

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Evaluates and records a call; returns its Proxy, or None if the call returns None."""
        self.guards.confirm()
        result = self._evaluate(kind, target, args, kwargs)
        node = super().create_proxy(kind, target, args, kwargs, name, type_expr).node
        node.meta[VALUE] = self._fake_of(result.value)
        if target in _COMPARISONS:
            self._compared[node] = [one for one in args if isinstance(one, (tuple, list))]
        self._note_written(node, result, args, kwargs)
        if result.value is None and kind != "placeholder" and (kind != "call_function" or is_known(target)):
            return None
        return GuidedProxy(node, self, result.value, self._is_device(target, args, result.value))

    def proxy(self, node: Node) -> Any:
        """Returns a stock Proxy, which `create_proxy` replaces by a GuidedProxy."""
        return torch.fx.Proxy(node, self)

    def record(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records a call of torch in the form of a stock trace."""
        self.guards.drop(proxies_in((args, kwargs)))
        method = as_script_method(function)
        if method is not None:
            return self.create_proxy("call_method", method.name, (method.owner, *args), kwargs)
        return super().record(function, args, kwargs)

    def record_autograd_function(self, function: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records the application of a user's autograd function as the call of a module."""
        if FUNCTIONS not in self.root._modules:
            self.root.add_module(FUNCTIONS, nn.Module())
        folder = self.root.get_submodule(FUNCTIONS)
        name = f"{function.__name__}_{len(folder._modules)}"
        folder.add_module(name, AutogradCall(function))
        return self.create_proxy("call_module", f"{FUNCTIONS}.{name}", args, kwargs)

    def on_torch_call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs or records a call of torch by the user's code."""
        if self.evaluator.is_running:
            return function(*args, **kwargs)
        if self._changed:
            args, kwargs = self._with_changed(args), self._with_changed(kwargs)
        if getattr(function, "__name__", "") == "__setitem__" and type(args[0]) in PROXY_TYPES:
            args[0][args[1]] = args[2]
            return None
        is_made = self.records_constants and function in _MAKERS
        if proxies_in((args, kwargs)) or is_random(function) or is_made:
            return self.record(function, args, kwargs)
        refuse_change(self.parameters, function, args, kwargs)
        self._unrecorded += 1
        if self._unrecorded in self._recorded_makers:
            return self.record(function, args, kwargs)
        return self.made.run(self._unrecorded, function, args, kwargs)

    def note_replaced(self, values: list[Any]) -> None:
        """Drops the check of a comparison with a value that the forward has replaced: the key of a cache.

        The graph fills the cache in each run, whatever the model has kept from an earlier forward.
        """
        kept = {id(one) for one in values}
        keys = {node for node, others in self._compared.items() if any(id(one) in kept for one in others)}
        guards = self.guards.guards
        self.guards.guards = [dataclasses.replace(one, is_checked=False) if one.node in keys else one for one in guards]

    def record_new_values(self) -> list[Node]:
        """Records the values that the forward has assigned to buffers, and the values of these nodes."""
        nodes = super().record_new_values()
        for node in nodes:
            buffer = node.all_input_nodes[0]
            node.meta[VALUE] = buffer.meta[VALUE] = self._fake_of(_attribute(self.root, str(buffer.target)))
            node.meta[WRITES] = (buffer,)
        return nodes

    def iter(self, obj: Any) -> Iterator[Any]:
        """Returns the elements of a value that is iterated other than by unpacking into names."""
        return iter(GuidedProxy.__iter__(obj))

    def create_arg(self, a: Any) -> Any:
        """Returns the argument of a node for ``a``."""
        if type(a) in PROXY_TYPES:
            return a.node
        if type(a) is torch.Size:
            return tuple(self.create_arg(one) for one in a)
        if isinstance(a, Tensor) and id(a) in self._changed:
            return self._changed[id(a)][1].node
        return super().create_arg(_plain(a))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls or records a module; a module that runs in an evaluation is only called."""
        if self.evaluator.is_running:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Returns the attribute of a module; a Proxy if it is a parameter."""
        if self.evaluator.is_running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def callee(self) -> Callable[..., Any] | None:
        """Returns the function that is traced; None for the forward of the class."""
        callee = super().callee()
        forward = callee or self.root.forward
        named = with_named_keywords(forward, self._example)
        if self._example.is_bare:
            self._omitted = omitted(named, self._example)
            return as_example_calls(named, self._example)
        return callee if named is forward else named

    def given(self, value: Any) -> Any:
        """Returns the value that the forward gets for an argument: the Proxy of a tensor, list or number."""
        if type(value) not in PROXY_TYPES:
            return value
        if value.node.target in self._omitted:
            return self.ask("argument", value, value.amct_value)
        is_number = type(value.amct_value) in (int, float, complex)
        is_container = isinstance(value.amct_value, (tuple, list, dict)) or dataclasses.is_dataclass(value.amct_value)
        if is_number or is_container or isinstance(value.amct_value, Tensor):
            return value
        return self.ask("argument", value, value.amct_value)

    def _evaluate(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
        if kind == "placeholder":
            return Result(self._arguments[target])
        if kind == "get_attr":
            value = _attribute(self.root, target)
            is_constant = not isinstance(value, nn.Parameter) and target not in self.written_buffers
            return Result(value if is_constant else self.evaluator.fake(value))
        values, named = values_of(args), values_of(kwargs)
        if kind == "call_method":
            return self.evaluator.call(_method_of(target), values, named)
        function = self.root.get_submodule(target) if kind == "call_module" else target
        try:
            return self.evaluator.call(function, values, named, is_fake=is_random(function))
        except TraceError:
            if is_known(function):
                raise
            return self.evaluator.call_on_stand_ins(function, values, named)

    def _note_written(self, node: Node, result: Result, args: Any, kwargs: Any) -> None:
        """Notes the nodes whose memory ``node`` changes; a changed constant is no constant any more."""
        if not result.written:
            return
        written = {id(one) for one in result.written}
        found = [one.node for one in proxies_in((args, kwargs)) if id(values_of(one)) in written]
        for one in leaves((args, kwargs)):
            if type(one) not in PROXY_TYPES and isinstance(one, Tensor) and id(one) in written:
                if (maker := self.made.maker_of(one)) is not None:
                    self.changed_makers.add(maker)
                source = next(read for read in node.all_input_nodes if self._reads(read, one))
                self._changed[id(one)] = (one, GuidedProxy(source, self, self.evaluator.fake(one)))
                found.append(source)
        node.meta[WRITES] = tuple(found)

    def _reads(self, node: Node, tensor: Tensor) -> bool:
        return node.op == "get_attr" and self.constant_name(tensor) == node.target

    def _with_changed(self, value: Any) -> Any:
        """Returns ``value`` with Proxies in place of constants that the graph has changed."""
        if isinstance(value, Tensor) and type(value) not in PROXY_TYPES and id(value) in self._changed:
            return self._changed[id(value)][1]
        if type(value) in (tuple, list):
            return type(value)(self._with_changed(one) for one in value)
        if type(value) is dict:
            return {key: self._with_changed(one) for key, one in value.items()}
        return value

    def _fake_of(self, value: Any) -> Any:
        """Returns ``value`` with fakes in place of real tensors, for the graph."""
        if isinstance(value, Tensor):
            return self.evaluator.fake(value)
        if isinstance(value, (tuple, list)):
            parts = [self._fake_of(one) for one in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        return {key: self._fake_of(one) for key, one in value.items()} if isinstance(value, dict) else value

    @staticmethod
    def _is_device(target: Any, args: tuple[Any, ...], value: Any) -> bool:
        """Whether ``value``, which is no tensor, comes from the device of a tensor."""
        if isinstance(value, Tensor):
            return False
        return target in ("get_device", "is_cuda") or any(one.is_device for one in proxies_in(args))


def _attribute(root: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    # Not getattr, which gives Proxies while tracing.
    module = root.get_submodule(path)
    for registry in (module._parameters, module._buffers):
        if name in registry:
            return registry[name]
    return vars(module)[name] if name in vars(module) else getattr(module, name)


def _method_of(name: str) -> Callable[..., Any]:
    def method(value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    return method


def _plain(value: Any) -> Any:
    """Returns the Python number for a number of NumPy, which no graph can hold."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
