"""Runs the integer network of a deploy pair, node by node (spec 10)."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import AmctError, CalibrationError, ConfigError, UnsupportedModelError
from ..files import PathLike
from ..files.naming import error_in_file
from .budget import Budget
from .cost import cost_of
from .cube import is_cube, run_cube
from .deploy_pair import DeployPair, Graph, Layer, Node, load_deploy_pair
from .ops import find_kernel, is_movement
from .ops.movement import pad_value
from .ops.registry import Kernel
from .values import Accumulator, Centred, RealValues, Value, as_real, as_single, centre, quantize

_Scope = MutableMapping[str, Value]
_FLOAT_LAYER = Layer(grids={})
# On the dynamic path auxiliary nodes have the layer's name with an ending (spec 9.1).
_ENDINGS = {"Pad": "_pad", "Transpose": "_transpose"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The results of one run.

    Attributes:
      outputs: Graph outputs by name; floats as float32.
      edges: Integers of every quantized input, offset included, int32: by node name, in the order of the node's inputs.
        Empty without ``keep_integers``.
      sums: Exact integers of every quantized CUBE op, after bias and shift, int32: by node name. Empty as ``edges``.
      values: First output of every node, real values: by node name. Empty unless ``keep_values``.
    """

    outputs: Mapping[str, NDArray[Any]]
    edges: Mapping[str, tuple[NDArray[np.int32], ...]]
    sums: Mapping[str, NDArray[np.int32]]
    values: Mapping[str, NDArray[Any]]

    def edges_of(self, layer: str) -> tuple[NDArray[np.int32], ...]:
        """Returns the integers of a layer of one or more nodes, ``<layer>``, ``<layer>/...``; equal results only once.

        The same integers with one more axis of size 1 count as equal; the first node has them as the layer gets them.
        """
        found: list[NDArray[np.int32]] = []
        for name, arrays in self.edges.items():
            if name in (layer, *(f"{layer}{ending}" for ending in _ENDINGS.values())) or name.startswith(f"{layer}/"):
                found += [one for one in arrays if not any(_are_equal(one, other) for other in found)]
        return tuple(found)


class Interpreter:
    """The oracle: loads a deploy pair once and runs it any number of times."""

    def __init__(
        self, model_path: PathLike, param_path: PathLike, *, is_limited: bool = True, is_checked: bool = False
    ) -> None:
        """Reads both files.

        Args:
          model_path: The deploy model.
          param_path: The parameter file.
          is_limited: Whether a run is refused that needs more memory or work than docs/security.md allows.
          is_checked: See `load_deploy_pair`.

        Raises:
          FileNotFoundError: A file is missing.
          RecordError: The parameter file does not parse, or the files do not belong together.
          UnsupportedModelError: There is no kernel for an operator.
        """
        with error_in_file(model_path):
            self._take(load_deploy_pair(model_path, param_path, is_checked=is_checked), is_limited)

    @classmethod
    def of(cls, pair: DeployPair) -> Interpreter:
        """Returns the interpreter of a pair that is in memory, without limits; UnsupportedModelError as `__init__`."""
        interpreter = cls.__new__(cls)
        interpreter._take(pair, False)
        return interpreter

    def _take(self, pair: DeployPair, is_limited: bool) -> None:
        self.pair = pair
        self._is_limited = is_limited
        _check_operators(pair.graph)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], *, keep_values: bool = False, keep_integers: bool = True
    ) -> Result:
        """Returns every integer tensor of the network for ``inputs``, by the names of the graph inputs.

        Raises:
          ConfigError: An input is missing or unknown.
          CalibrationError: An accumulator exceeds int32, or a value has no integer.
          UnsupportedModelError: A node cannot be executed, or a limit would be exceeded.
        """
        result, error = self.run_to_error(inputs, keep_values=keep_values, keep_integers=keep_integers)
        if error is not None:
            raise error
        return result

    def run_to_error(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        keep_values: bool = False,
        keep_integers: bool = True,
        held: int = 0,
    ) -> tuple[Result, CalibrationError | None]:
        """Returns (result, None); or, after a CalibrationError, (all results before the error, the error).

        ``held``: bytes that the caller holds, which count for the limit.
        """
        graph = self.pair.graph
        budget = Budget(graph, held, is_limited=self._is_limited)
        run = _Run(self.pair.layers, budget, keep_values=keep_values, keep_integers=keep_integers)
        feeds = _checked_inputs(graph, inputs)
        budget.hold(feeds.values())
        scope: _Scope = {**graph.constants, **feeds}
        outputs: dict[str, NDArray[Any]] = {}
        error: CalibrationError | None = None
        try:
            run.graph(graph, scope)
            outputs = {name: as_single(_lookup(scope, name)) for name in graph.outputs}
        except CalibrationError as stop:
            error = stop
        return Result(outputs=outputs, edges=run.edges, sums=run.sums, values=RealValues(run.values)), error


def run(model_path: PathLike, param_path: PathLike, inputs: Mapping[str, NDArray[Any]]) -> Result:
    """Loads a deploy pair and runs it once; see `Interpreter`."""
    return Interpreter(model_path, param_path).run(inputs)


class _Run:
    """One run, with its results so far."""

    def __init__(self, layers: Mapping[str, Layer], budget: Budget, *, keep_values: bool, keep_integers: bool) -> None:
        self.edges: dict[str, tuple[NDArray[np.int32], ...]] = {}
        self.sums: dict[str, NDArray[np.int32]] = {}
        self.values: dict[str, Value] = {}
        self._kept: set[str] = set()  # names of the values in ``values``, in their graph
        self._layers = layers
        self._budget = budget
        self._keep_values = keep_values
        self._keep_integers = keep_integers

    def graph(self, graph: Graph, scope: _Scope) -> None:
        """Executes all nodes; drops a value after its last reader."""
        last_reader = _last_readers(graph)
        for number, node in enumerate(graph.nodes):
            self._node(node, scope)
            for name in last_reader.get(number, ()):
                if name in scope:
                    dropped = scope.pop(name)
                    if name not in self._kept:
                        self._budget.release(dropped)

    def _node(self, node: Node, scope: _Scope) -> None:
        values = [_lookup(scope, name) if name else None for name in node.inputs]
        try:
            outputs = self._outputs(node, values, scope)
        except AmctError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
            raise UnsupportedModelError(f"{node} cannot be executed: {error}") from error
        except MemoryError as error:
            raise UnsupportedModelError(f"{node} cannot be executed: the memory is not enough. {error}") from error
        # A node may have fewer outputs than its operator.
        made = {name: value for name, value in zip(node.outputs, outputs, strict=False) if name}
        scope.update(made)
        self._budget.hold(made.values())
        if self._keep_values:
            self.values[node.name] = outputs[0]
            if node.outputs and node.outputs[0]:
                self._kept.add(node.outputs[0])
            else:
                self._budget.hold(outputs[:1])

    def _outputs(self, node: Node, values: list[Value | None], scope: _Scope) -> Sequence[Value]:
        if node.op_type == "If" and not node.domain:
            return self._branch(node, values, scope)
        layer = self._layers.get(node.name, _FLOAT_LAYER)
        self._budget.spend(node, cost_of(node, values, layer))
        values = self._quantized(node, values, layer)
        if is_cube(node):
            return self._cube(node, values, layer)
        if not layer.grids and _hands_on(node, values):
            return (_given(values),)
        kernel = find_kernel(node)
        assert kernel is not None, "checked when the files were read"
        arrays = [None if value is None else as_real(value) for value in values]
        source = values[0] if values else None
        if isinstance(source, Accumulator) and is_movement(node) and _owner(node) == source.layer:
            step = np.broadcast_to(source.step, source.sums.shape)
            moved = [kernel(node, [one, *arrays[1:]])[0] for one in (source.sums, step)]
            self._keep_sums(source.layer, moved[0])
            return [Accumulator(moved[0], moved[1], source.layer)]
        if isinstance(source, Centred) and _moves_integers(node, source, arrays):
            return [Centred(one, source.scale, _owner(node)) for one in kernel(node, [source.integers, *arrays[1:]])]
        if _joins_integers(node, values):
            return [_joined(node, values, kernel)]
        with np.errstate(all="ignore"):  # inf and nan are results as in every other implementation
            return [np.asarray(one) for one in kernel(node, arrays)]

    def _quantized(self, node: Node, values: list[Value | None], layer: Layer) -> list[Value | None]:
        """Puts the quantized inputs on their grids."""
        if not layer.grids:
            return values
        edges = {at: quantize(_given(values[at:]), grid, node.name) for at, grid in layer.grids.items()}
        if self._keep_integers:
            self.edges[node.name] = tuple(edges.values())
            self._budget.hold(edges.values())
        centred = {at: centre(edges[at], grid, node.name) for at, grid in layer.grids.items()}
        return [centred.get(at, value) for at, value in enumerate(values)]

    def _cube(self, node: Node, values: list[Value | None], layer: Layer) -> Sequence[Value]:
        first, *others = run_cube(node, values, layer)
        if isinstance(first, Accumulator):
            self._keep_sums(node.name, first.sums)
            first = dataclasses.replace(first, layer=node.name)
        return [first, *others]

    def _keep_sums(self, layer: str, sums: NDArray[np.int32]) -> None:
        if self._keep_integers:
            self.sums[layer] = sums
            self._budget.hold([sums])

    def _branch(self, node: Node, values: list[Value | None], scope: _Scope) -> Sequence[Value]:
        """Executes one branch of an If; the branch can read the values of the surrounding graph."""
        branch: Graph = node.get("then_branch" if as_real(_given(values)).reshape(()) else "else_branch")
        inner: _Scope = ChainMap(dict(branch.constants), scope)
        self.graph(branch, inner)
        return [_lookup(inner, name) for name in branch.outputs]


def _moves_integers(node: Node, source: Centred, arrays: Sequence[NDArray[Any] | None]) -> bool:
    """Whether the node moves the integers of a CUBE operation of its own layer (a padding before its pooling)."""
    if not is_movement(node) or source.layer not in (node.name, _owner(node)):
        return False
    is_constant_pad = node.op_type == "Pad" and node.get("mode", "constant") == "constant"
    return not (is_constant_pad and pad_value(node, arrays) != 0)


def _joins_integers(node: Node, values: Sequence[Value | None]) -> bool:
    """Whether a Concat inside a layer joins parts of one quantized input (a circular padding)."""
    parts = [value for value in values if isinstance(value, Centred)]
    is_whole = bool(parts) and len(parts) == len(values)
    layers, scales = {part.layer for part in parts}, {part.scale for part in parts}
    is_inside = "/" in node.name and layers <= {node.name, _owner(node)}
    return node.op_type == "Concat" and not node.domain and is_whole and is_inside and len(scales) == 1


def _joined(node: Node, values: Sequence[Value | None], kernel: Kernel) -> Centred:
    parts = [value for value in values if isinstance(value, Centred)]
    return Centred(kernel(node, [part.integers for part in parts])[0], parts[0].scale, _owner(node))


_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Expand", "Tile")


def _hands_on(node: Node, values: Sequence[Value | None]) -> bool:
    """Whether the node changes neither values nor shape; some exporters write such nodes and others do not."""
    if node.domain or not values or values[0] is None:
        return False
    if node.op_type in ("Identity", "Dropout"):
        return True
    real = as_real(values[0])
    if node.op_type == "Cast":
        target = onnx.helper.tensor_dtype_to_np_dtype(node.get("to"))
        return real.dtype == np.float64 and bool(np.issubdtype(target, np.floating))
    if node.op_type not in _RESHAPES or real.dtype != np.float64:
        return False
    kernel = find_kernel(node)
    assert kernel is not None, "checked when the files were read"
    arrays = [None if value is None else as_real(value) for value in values]
    return np.shape(kernel(node, arrays)[0]) == real.shape


def _are_equal(one: NDArray[np.int32], other: NDArray[np.int32]) -> bool:
    return np.array_equal(one, other) or (one.ndim != other.ndim and np.array_equal(np.squeeze(one), np.squeeze(other)))


def _owner(node: Node) -> str:
    """Returns the layer of an auxiliary node: ``<layer>/<OpType>[_k]`` (spec 11.3), ``<layer>_pad`` (spec 9.1)."""
    ending = _ENDINGS.get(node.op_type, "/")
    return node.name.removesuffix(ending) if node.name.endswith(ending) else node.name.rpartition("/")[0]


def _lookup(scope: Mapping[str, Value], name: str) -> Value:
    if name not in scope:
        raise UnsupportedModelError(f"The deploy model reads '{name}', which no node before has produced.")
    return scope[name]


def _given(values: Sequence[Value | None]) -> Value:
    if not values or values[0] is None:
        raise ValueError("a required input is absent.")
    return values[0]


def _last_readers(graph: Graph) -> dict[int, list[str]]:
    """Returns, by node number, the values without a later reader; values that a branch reads are kept to the end."""
    last: dict[str, int] = {}
    for number, node in enumerate(graph.nodes):
        last.update(dict.fromkeys(node.inputs, number))
    kept = {*graph.outputs, *(name for node in graph.nodes for branch in _branches(node) for name in _reads(branch))}
    made = {name for node in graph.nodes for name in node.outputs}
    dropped: dict[int, list[str]] = {}
    for name, number in last.items():
        if name in made and name not in kept:
            dropped.setdefault(number, []).append(name)
    return dropped


def _branches(node: Node) -> list[Graph]:
    return [value for value in node.attributes.values() if isinstance(value, Graph)]


def _reads(graph: Graph) -> set[str]:
    inner = {name for node in graph.nodes for branch in _branches(node) for name in _reads(branch)}
    return inner | {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)


def _check_operators(graph: Graph) -> None:
    for node in graph.nodes:
        for branch in _branches(node):
            _check_operators(branch)
        if not (is_cube(node) or find_kernel(node) or (node.op_type == "If" and not node.domain)):
            raise UnsupportedModelError(
                f"{node}: the oracle, which runs the integer network, has no kernel for this operator."
            )


def _checked_inputs(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if set(inputs) != set(graph.inputs):
        raise ConfigError(f"The deploy model has the inputs {sorted(graph.inputs)}, given are {sorted(inputs)}.")
    return {name: _as_input(np.asarray(inputs[name]), dtype) for name, dtype in graph.inputs.items()}


def _as_input(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Returns ``array`` in the input's type; every float input becomes float32 (spec 4.7)."""
    return array.astype(np.float32 if np.issubdtype(dtype, np.floating) else dtype)
