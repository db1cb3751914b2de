"""Node-by-node execution of a quantized graph: for real_quant, and to watch the result of every node."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from ...errors import AmctError, UnsupportedModelError
from ...nn.call import MethodCall
from ...nn.double_call import cast_floats
from ...nn.module_hooks import has_hooks, with_hooks_of, without_hooks
from ...nn.quantized_layer import QuantizedLayer
from ..real_quant.between_layers import BetweenLayers
from ..real_quant.known import is_known
from ..real_quant.real_quant_mode import run_opaque
from .read.constants import constant_nodes
from .read.memory import lost_change


@dataclasses.dataclass(frozen=True)
class NodeResult:
    """The result of one node.

    Attributes:
      name: Layer name of the node.
      value: The result: a tensor, a tuple, a size, ...
    """

    name: str
    value: Any


Watcher = Callable[[NodeResult], None]


class RecordingInterpreter(fx.Interpreter):
    """Runs the graph like its generated code and calls a watcher with every node's result."""

    def __init__(self, module: fx.GraphModule, watcher: Watcher | None) -> None:
        super().__init__(_Graph(module.graph))
        self.module = module
        self._watcher = watcher
        self._said: tuple[Any, ...] = ()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the graph. torch.fx adds the user's line to errors; ours name the layer and stay as they are."""
        try:
            return super().run(*args, **kwargs)
        except AmctError as error:
            error.args = self._said or error.args
            raise

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and reports it."""
        try:
            result = self._result(n)
        except AmctError as error:
            self._said = error.args
            raise
        if self._watcher is not None and n.op != "output":
            value = cast_floats(result, torch.float32)
            self._watcher(NodeResult(layer_name(self.module, n), value))
        return result

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of ``n`` in plain lists and dicts, as generated code has; a node has immutable ones."""
        args: tuple[Any, ...] = tuple([self._loaded(one) for one in n.args])
        return args, {name: self._loaded(one) for name, one in n.kwargs.items()}

    def _loaded(self, value: Any) -> Any:
        """Returns ``value`` with the results of nodes in place of the nodes."""
        if isinstance(value, fx.Node):
            return self.env[value]
        if isinstance(value, list):
            return [self._loaded(one) for one in value]
        if isinstance(value, dict):
            return {key: self._loaded(one) for key, one in value.items()}
        if isinstance(value, slice):
            return slice(self._loaded(value.start), self._loaded(value.stop), self._loaded(value.step))
        if type(value) is tuple:
            return tuple([self._loaded(one) for one in value])
        return fx.node.map_arg(value, self.env.__getitem__) if isinstance(value, tuple) else value

    def _result(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)


class RealQuantInterpreter(RecordingInterpreter):
    """Runs the integer network (spec 10.4): float64 between the layers, float32 at functions of the user.

    `BetweenLayers` computes the operations between the layers. Graph outputs are float32. Results computed from
    constants only have the float32 values of the exported files.
    """

    def __init__(self, module: fx.GraphModule, watcher: Watcher | None = None) -> None:
        super().__init__(module, watcher)
        self._between = BetweenLayers()
        self._constants = constant_nodes(module.graph)
        self._written: list[Any] = []  # the arguments that the present node, a call of the user's code, has changed

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a QuantizedLayer with unchanged arguments, other modules in float64 or like a user's function."""
        module = self.fetch_attr(target)
        if isinstance(module, QuantizedLayer):
            return _with_hooks(module.computed_modules, module, args, kwargs)
        if is_known(module):
            return _with_hooks([module], functools.partial(self._between_layers, module), args, kwargs)
        return run_opaque(module, args, kwargs, self._written.append)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a torch or Python function in float64, a user's function as if its inner calls were graph nodes."""
        if target is getattr and args[1:] == ("dtype",):
            return torch.float32 if args[0].dtype is torch.float64 else args[0].dtype  # the type in float and in files
        return self._call(target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a Tensor method in float64."""
        return self._between.call(MethodCall(target), args, kwargs)

    def _between_layers(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self._between.call(without_hooks(module), args, kwargs)

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_known(function):
            return self._between.call(function, args, kwargs)
        return run_opaque(function, args, kwargs, self._written.append)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the graph outputs as float32."""
        return cast_floats(super().output(target, args, kwargs), torch.float32)

    def _result(self, n: fx.Node) -> Any:
        if n not in self._constants:
            self._written.clear()
            result = super()._result(n)
            if self._written:
                self._refuse_lost_changes(n)
            return result
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(fx.Interpreter, n.op)(self, n.target, args, kwargs)

    def _refuse_lost_changes(self, n: fx.Node) -> None:
        """Raises UnsupportedModelError if a later node reads an argument that the user's code of ``n`` has changed."""
        last = self.user_to_last_uses.get(n, [])
        for one in n.all_input_nodes:
            if one not in last and any(self.env.get(one) is value for value in self._written):
                raise UnsupportedModelError(lost_change(n, one))


def _with_hooks(
    modules: Sequence[nn.Module], call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Returns ``call(*args, **kwargs)`` with the hooks of ``modules``, which see float32.

    Values that no hook has replaced go on in their exact form.
    """
    if not any(map(has_hooks, modules)):
        return call(*args, **kwargs)
    exact: dict[int, Any] = {}
    shown: list[Any] = []  # keeps the keys of ``exact`` alive

    def show(value: Any) -> Any:
        shown.append(cast_floats(value, torch.float32))
        exact[id(shown[-1])] = value
        return shown[-1]

    def run(*given: Any, **named: Any) -> Any:
        given = tuple(exact.get(id(one), one) for one in given)
        return show(call(*given, **{name: exact.get(id(one), one) for name, one in named.items()}))

    shown_kwargs = {name: show(value) for name, value in kwargs.items()}
    result = with_hooks_of(modules, run, tuple(map(show, args)), shown_kwargs)
    return exact.get(id(result), result)


class _Graph(nn.Module):
    """A module without children for torch's interpreter, which would list all modules of the model in each forward."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__()
        self.graph = graph


def layer_name(module: nn.Module, node: fx.Node) -> str:
    """Returns the layer name if ``node`` calls a QuantizedLayer, else the node's name."""
    called = _module_of(module, node)
    return called.name if isinstance(called, QuantizedLayer) else node.name


def _module_of(module: nn.Module, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None
