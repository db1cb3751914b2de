"""The tracer: stock ``torch.fx`` with the leaf rule of spec 8.1; the state of the model is restored."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy
from torch.fx.proxy import TraceError
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from ....nn.module_hooks import has_hooks
from ....torch_private import BatchNorm, Dropout, call_module, known_version
from ...batches.example import starred
from ..rewrite.attention import is_attention
from .changed_parameters import memory_of_parameters, refuse_change
from .device_proxy import DeviceProxy
from .guided.guards import GuardList
from .held import held_modules, tensor_attributes
from .leaf_hooks import LeafHooks, take_leaf_hooks
from .made_tensors import MADE, MadeTensors
from .part_count import count_of_parts
from .proxies import TracedProxy
from .random_calls import is_random
from .script_functions import script_functions_as_python
from .state import record_new_values
from .user_code import line_being_traced

LeafRule = Callable[[type], bool]

UNOWNED = "amct_modules"  # the submodule that holds modules which the model calls, but does not own
AUTOCAST = "torch.autocast is enabled here"
_FIXED = (type(None), bool, str)  # types of defaults on which a forward branches
_WRAPPERS = (DataParallel, DistributedDataParallel)  # modules that only call the module inside them


@dataclasses.dataclass(frozen=True)
class LeafRules:
    """The modules that are leaves of a trace.

    Attributes:
      packages: Packages whose classes are leaves.
      is_leaf_type: Whether another class is a leaf.
      modules: Single modules that are leaves.
    """

    packages: tuple[str, ...] = ()
    is_leaf_type: LeafRule = lambda _cls: False
    modules: frozenset[str] = frozenset()


class NotOwnedError(NameError):
    """The forward calls a module that is not part of the model."""


class AmctTracer(torch.fx.Tracer):
    """A tracer for one model.

    The arguments have defaults because ``torch.fx`` makes tracers of its own when it unpickles a GraphModule.

    Args:
      rules: The modules that are leaves.
      are_buffers_proxies: Records reading a buffer instead of using its value. A stock trace cannot do
        ``self.table[:, :x.size(1)]`` or ``self.query.expand(x.size(0), -1)``; this can, but operations on buffers alone
        become nodes, which changes the numbers in names. So this is the last attempt, when stock traces have failed.
      is_device_known: Uses the model's device for traced values, see `DeviceProxy`; only after a stock trace failed.
      takes_defaults: Calls the forward with the defaults of arguments whose default is None, a bool or a text, and
        without ``*args`` and ``**kwargs``, like a caller who omits them.
      written_buffers: Names of buffers that the forward changes: reading them is recorded, so that the change is too.

    Attributes:
      guards: The values that the user's code has read; empty without an example.
      parameters: The names of the model's parameters, by memory.
      made: The tensors that the forward has made without traced values.
      leaf_hooks: What runs in front of and behind modules that are nodes, from the begin of the trace on.
    """

    def __init__(
        self,
        rules: LeafRules = LeafRules(),
        are_buffers_proxies: bool = True,
        is_device_known: bool = True,
        takes_defaults: bool = False,
        written_buffers: frozenset[str] = frozenset(),
    ) -> None:
        """Takes the settings."""
        super().__init__(autowrap_modules=(math,))
        self.rules = rules
        self.takes_defaults = takes_defaults
        self.defaults: list[Node] = []  # the placeholders whose default was taken
        self.proxy_buffer_attributes = are_buffers_proxies
        self.written_buffers = written_buffers
        self._is_device_known = is_device_known
        self._failure: tuple[Exception, str] | None = None
        self._thread = threading.get_ident()
        self.guards = GuardList()
        self.leaf_hooks: dict[nn.Module, LeafHooks] = {}
        self.made = MadeTensors()
        self._held: set[int] = set()  # identities of the modules in lists and the like
        self._device, self._autocast, self.parameters = "cpu", False, dict[int, str]()
        self._names: dict[int, str] = {}  # of the tensors that belong to the model, by identity
        self._constants: dict[tuple[int, int | None], tuple[Tensor, str]] = {}  # other tensors, by identity and version

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: Any = None) -> Graph:
        """Returns the graph of ``root``."""
        assert isinstance(root, nn.Module)
        named = (*root.named_parameters(), *root.named_buffers(remove_duplicate=False), *tensor_attributes(root))
        for name, tensor in named:
            self._names.setdefault(id(tensor), name)
        self.parameters = memory_of_parameters(root)
        self.leaf_hooks = take_leaf_hooks(root, self.leaves_of(root))
        self._held = {id(module) for module in held_modules(root)}
        self._device = next(root.parameters(), torch.empty(0)).device.type
        self._autocast = self._is_autocast_on()
        with _CallMode(self), script_functions_as_python():
            return super().trace(root, concrete_args)

    def record(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records a call of torch in the form of a stock trace."""
        name = getattr(function, "__name__", type(function).__name__)
        if name == "__get__":  # a property
            return self.create_proxy("call_function", getattr, (args[0], str(function.__self__.__name__)), {})  # type: ignore[attr-defined]
        if is_tensor_method_or_property(function):
            return self.create_proxy("call_method", name, args, kwargs)
        return self.create_proxy("call_function", function, args, kwargs, name=self.graph._target_to_str(name))

    def on_torch_call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a call of torch by the user's code, or records it if it draws random numbers."""
        refuse_change(self.parameters, function, args, kwargs)
        if is_random(function):
            return self.record(function, args, kwargs)
        return self.made.run(0, function, args, kwargs)

    def path_of_failure(self, error: Exception) -> str:
        """Returns the path of the innermost module whose forward raised ``error``; empty for the model itself."""
        return self._failure[1] if self._failure is not None and self._failure[0] is error else ""

    def constant_name(self, tensor: Tensor) -> str | None:
        """Returns the name under which the graph reads ``tensor``; None if it does not read it yet."""
        found = self._constants.get((id(tensor), known_version(tensor)))
        return self._names.get(id(tensor)) if found is None else found[1]

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> torch.fx.Node:
        """Records a node with the user's line, which torch shows if running the node fails."""
        node = super().create_node(kind, *args, **kwargs)
        if kind.startswith("call") and not self._autocast and self._is_autocast_on():
            raise TraceError(AUTOCAST)
        # Not torch's record_stack_traces, whose first use imports sympy: 2.8 seconds.
        if kind not in ("placeholder", "output") and (line := line_being_traced()):
            node.stack_trace = line
        return node

    def create_arg(self, a: Any) -> Any:
        """Returns the argument of a node for ``a``.

        A tensor that belongs to no module becomes a constant of the graph: a copy of its present values, since the
        forward may change it later.
        """
        if isinstance(a, Tensor) and not isinstance(a, (nn.Parameter, Proxy)):
            node = self.create_node("get_attr", self.constant_name(a) or self._add_constant(a), (), {})
            node.meta[MADE] = self.made.memory_of(a)
            return node
        if type(a) is type(torch.FloatTensor):  # x.type(torch.FloatTensor), the older spelling of a type
            return a.dtype
        return super().create_arg(a)

    def _is_autocast_on(self) -> bool:
        return torch.amp.is_autocast_available(self._device) and torch.is_autocast_enabled(self._device)

    def path_of_module(self, mod: nn.Module) -> str:
        """Returns the name of ``mod``; a module that the model does not own, as of a list, gets one.

        Raises:
          NotOwnedError: The forward has made the module, with parameters, or eval() does not reach what it does.
        """
        try:
            return super().path_of_module(mod)
        except NameError as error:
            if any(one in self._paths for one in mod.children()):
                return type(mod).__name__  # a slice of a Sequential: its parts have names
            is_random = mod.training and isinstance(mod, (Dropout, BatchNorm))
            if is_random or (next(mod.parameters(), None) is not None and id(mod) not in self._held):
                raise NotOwnedError(f"{type(mod).__name__}: {error}") from None
            return self._owned(mod)

    @property
    def _paths(self) -> dict[nn.Module, str]:
        return self.submodule_paths if self.submodule_paths is not None else {}

    def _owned(self, module: nn.Module) -> str:
        """Makes ``module`` a part of the root, and returns its name."""
        if UNOWNED not in self.root._modules:
            self.root.add_module(UNOWNED, nn.Module())
        folder = self.root.get_submodule(UNOWNED)
        name = f"{type(module).__name__}_{len(folder._modules)}"
        folder.add_module(name, module)
        self._paths[module] = f"{UNOWNED}.{name}"
        return self._paths[module]

    def _add_constant(self, tensor: Tensor) -> str:
        name = self.get_fresh_qualname("_tensor_constant")
        setattr(self.root, name, tensor.detach().clone())
        self._constants[id(tensor), known_version(tensor)] = (tensor, name)
        return name

    def proxy(self, node: Node) -> Proxy:
        """Returns the Proxy for a new node."""
        return DeviceProxy(node, self) if self._is_device_known else TracedProxy(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        """Returns the elements of an iterated value, if the call determines their number."""
        count = count_of_parts(obj.node)
        return super().iter(obj) if count is None else iter([obj[index] for index in range(count)])

    @staticmethod
    def has_open_count(node: Node) -> bool:
        """Whether ``node`` cuts a tensor into as many parts as its size asks for."""
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        return name in ("split", "unbind") and count_of_parts(node) is None

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls or records a module, and notes the module in which an error is raised."""
        if threading.get_ident() != self._thread:  # a model in another thread: torch.fx patches nn.Module for all
            return forward(*args, **kwargs)
        try:
            if isinstance(m, _WRAPPERS):
                return m.module(*args, **kwargs)
            hooks = self.leaf_hooks.get(m)
            if hooks is None:
                return super().call_module(m, forward, args, kwargs)
            node_of = super().call_module
            return hooks.around(lambda *given, **named: node_of(m, forward, given, named), args, kwargs)
        except Exception as error:
            if not self.path_of_failure(error):
                self._failure = (error, self._paths.get(m, ""))
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Proxy]) -> Any:
        """Returns the attribute of a module; a Proxy if it is a parameter, found by identity: torch.fx searches all."""
        if threading.get_ident() != self._thread:
            return attr_val
        name = self._names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None or not (isinstance(attr_val, nn.Parameter) or name in self.written_buffers):
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` is one node; the class attribute ``amct_leaf`` has priority over the package."""
        if module_qualified_name in self.rules.modules:
            return True
        is_given = any(isinstance(one, Proxy) for one in m._parameters.values())  # by torch.func.functional_call
        if is_given or "forward" in vars(m) or isinstance(m, _WRAPPERS):
            return False
        explicit = getattr(type(m), "amct_leaf", None)
        if explicit is not None:
            return bool(explicit)
        if is_attention(m):  # a subclass too, since torch.fx cannot trace its forward
            return True
        return self.rules.is_leaf_type(type(m)) or (self._is_in_leaf_package(m) and not isinstance(m, nn.Sequential))

    def _is_in_leaf_package(self, module: nn.Module) -> bool:
        home = f"{type(module).__module__}."
        return any(home.startswith(f"{package}.") for package in self.rules.packages)

    def leaves_of(self, root: nn.Module) -> set[nn.Module]:
        """Returns the leaves in ``root`` and all modules inside them."""
        found: set[nn.Module] = set()
        for path, module in root.named_modules():
            if path and module not in found and self.is_leaf_module(module, path):
                found |= set(module.modules())
        return found

    def note_replaced(self, values: list[Any]) -> None:
        """Takes the values of attributes that the forward has replaced; only a guided trace uses them."""

    def record_new_values(self) -> list[Node]:
        """Records the values that the forward has assigned to buffers; returns the nodes. Call it after the trace."""
        return record_new_values(self.root, self.graph, self.written_buffers)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Makes the placeholders of the forward that is called, which may be set on the instance."""
        callee = self.callee()
        if callee is None or not is_module:
            function, values = super().create_args_for_root(root_fn, is_module, concrete_args)
            return function, [self.given(value) for value in values]
        home = sys.modules.get(getattr(callee, "__module__", None) or "")
        if home is not None:
            self._autowrap_search.append(home)  # stock torch.fx only has the globals of the class's forward
        return self._placeholders_of(callee)

    def callee(self) -> Callable[..., Any] | None:
        """Returns the function that is traced; None for the forward of the class, as torch.fx reads that one."""
        callee = callee_in_force(self.root)
        if callee is None and parameter_kinds(self.root.forward) & {inspect.Parameter.KEYWORD_ONLY}:
            return self.root.forward  # torch.fx writes a forward with an argument without default behind one with it
        return callee

    def has_default(self, placeholder: Node) -> bool:
        """Whether the argument has a default on which a forward branches."""
        return bool(placeholder.args) and isinstance(placeholder.args[0], _FIXED)

    def given(self, value: Any) -> Any:
        """Returns the value that the forward gets for the Proxy of an argument."""
        if not self.takes_defaults or not isinstance(value, Proxy):
            return value
        node = value.node
        if str(node.target).startswith("*"):
            self.graph.erase_node(node)
            return {} if str(node.target).startswith("**") else ()
        if not self.has_default(node):
            return value
        self.defaults.append(node)
        return node.args[0]

    def _placeholders_of(self, callee: Callable[..., Any]) -> tuple[Callable[..., Any], list[Proxy]]:
        parameters = list(inspect.signature(callee).parameters.values())
        proxies: list[Proxy] = []
        for parameter in parameters:
            name, default = starred(parameter), parameter.default
            if default is parameter.empty and not name.startswith("*") and any(one.node.args for one in proxies):
                default = None  # a keyword-only argument; the generated forward takes it by position, too
            proxies.append(self.create_proxy("placeholder", name, () if default is parameter.empty else (default,), {}))

        def call(*values: Any) -> Any:
            args, kwargs = [], {}
            for parameter, value in zip(parameters, values, strict=True):
                if parameter.kind is parameter.VAR_POSITIONAL:
                    args += value
                elif parameter.kind is parameter.VAR_KEYWORD:
                    kwargs.update(value)
                elif parameter.kind is parameter.KEYWORD_ONLY:
                    kwargs[parameter.name] = value
                else:
                    args.append(value)
            return callee(*args, **kwargs)

        call.__annotations__.clear()  # torch.fx would write ours into the signature of the generated forward

        return call, [self.given(value) for value in proxies]


class _CallMode(TorchFunctionMode):
    """Gives every call of torch by the user's code to the tracer, also calls without Proxies."""

    def __init__(self, tracer: AmctTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tracer.on_torch_call(func, args, kwargs or {})


def callee_in_force(root: nn.Module) -> Callable[..., Any] | None:
    """Returns the function that calling ``root`` runs if it is not the forward of its class; else None."""
    if has_hooks(root):
        return _with_signature(lambda *args, **kwargs: call_module(root, *args, **kwargs), root.forward)
    if type(root).__call__ is nn.Module.__call__ or isinstance(root, GraphModule):
        # A decorator may take anything: torch.fx would give it the arguments of the function inside, as its own.
        is_decorated = hasattr(type(root).forward, "__wrapped__")
        return vars(root).get("forward", _with_signature(root.forward, root.forward) if is_decorated else None)
    call = type(root).__call__.__get__(root)
    return _with_signature(call, root.forward) if _takes_anything(call) else call


def _with_signature(call: Callable[..., Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``call(*args, **kwargs)`` with the arguments that ``forward`` names."""

    def named(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    named.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return named


def _takes_anything(function: Callable[..., Any]) -> bool:
    return bool(parameter_kinds(function) & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


def parameter_kinds(function: Callable[..., Any]) -> set[Any]:
    """Returns the kinds of parameters that ``function`` has."""
    return {parameter.kind for parameter in inspect.signature(function).parameters.values()}
