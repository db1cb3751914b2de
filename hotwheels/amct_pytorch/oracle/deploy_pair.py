"""The deploy pair as values: nodes and constants of the ONNX file, grids of the parameter file (spec 11.3, 11.4)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray

from ..errors import RecordError
from ..files import PathLike, check_input_file
from ..files.naming import error_in_file
from ..files.seal import DEPLOY_MODEL, PARAMETERS_BINARY, PARAMETERS_TEXT, check_together
from ..onnx_io.proto_file import read_proto
from ..record import calibration_param
from ..record.calibration_param import DataType, FactorParam, LayerParam

METADATA_KEY = "amct.deploy.v1"
# Width of a grid that has no entry in the metadata (spec 11.3). Types that are not listed mean: not quantized.
_BITS_OF_TYPE = {DataType.S4: 4, DataType.S8: 8, DataType.S16: 16}
_MAX_SHIFT = 16  # spec 4.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of one quantized input.

    Attributes:
      scale: Real units per step; a float32 value, ``fl32(1 / scale of the file)``.
      offset: The integer that stands for 0.0.
      num_bits: Width of the integers: 4 or 8..16.
    """

    scale: float
    offset: int
    num_bits: int

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        return -(1 << (self.num_bits - 1))

    @property
    def qmax(self) -> int:
        """The largest integer."""
        return (1 << (self.num_bits - 1)) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """The quantization parameters of one node, from the two files.

    Attributes:
      grids: Grid of each quantized input, by its position among all inputs of the node.
      weight_scale: Real units per weight step, float64 [1] or [C_out]; None without quantized weights.
      shift_bit: Right shift of the accumulator (spec 4.6), one value or one per channel; empty for no shift.
    """

    grids: Mapping[int, Grid]
    weight_scale: NDArray[np.float64] | None = None
    shift_bit: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One ONNX node. ``opset`` is the version of its domain; an absent optional input is an empty name."""

    name: str
    op_type: str
    domain: str = ""
    opset: int = 13
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Returns the name of the node for messages."""
        return f"Node '{self.name}' ({self.domain + '::' if self.domain else ''}{self.op_type})"

    def get(self, attribute: str, default: Any = None) -> Any:
        """Returns an attribute; floats have the float32 value of the file."""
        return self.attributes.get(attribute, default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in execution order; ``inputs`` maps names to NumPy types and excludes initializers."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, np.dtype[Any]]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployPair:
    """The two files; ``layers`` by node name, for every node that consumes an activation."""

    graph: Graph
    layers: Mapping[str, Layer]


def load_deploy_pair(model_path: PathLike, param_path: PathLike, *, is_checked: bool = False) -> DeployPair:
    """Reads both files; a parameter file that ends in ``.bin`` is the binary form.

    ``is_checked``: the caller has checked, or is checking, that the files are of one save.

    Raises:
      FileNotFoundError: A file is missing.
      RecordError: The parameter file does not parse, or the files do not belong together.
    """
    model_path = check_input_file(model_path, "Deploy model")
    param_path = check_input_file(param_path, "Quantization parameter file")
    is_binary = param_path.suffix == ".bin"
    if not is_checked:
        check_together({DEPLOY_MODEL: model_path, PARAMETERS_BINARY if is_binary else PARAMETERS_TEXT: param_path})
    model = read_proto(model_path)
    params = _read_params(param_path)
    with error_in_file(model_path):
        graph, metadata = read_graph(model), _metadata(model)
    with error_in_file(model_path), error_in_file(param_path):
        return DeployPair(graph=graph, layers=_layers(graph, params, metadata))


def read_graph(model: onnx.ModelProto) -> Graph:
    """Returns the nodes and constants of ``model``, local functions inlined.

    Raises:
      RecordError: An attribute or an input has no type, or the functions cannot be inlined.
    """
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        return _graph(model.graph, {one.domain: one.version for one in model.opset_import})
    except (ValueError, TypeError, KeyError, RuntimeError, onnx.checker.ValidationError) as error:
        raise RecordError(f"The graph cannot be read: {' '.join(str(error).split())}") from error


def _read_params(path: Path) -> dict[str, LayerParam]:
    param = calibration_param.read_param(path)
    if (twice := _repeated(layer.name for layer in param.layers)) is not None:
        raise RecordError(f"{path} has more than one entry for layer '{twice}'.")
    return {layer.name: layer for layer in param.layers}


def _repeated(names: Iterable[str]) -> str | None:
    """Returns the first name that stands there twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _metadata(model: onnx.ModelProto) -> dict[str, dict[str, Any]]:
    """Returns what the model's metadata says of its layers, by name; empty without any.

    Raises:
      RecordError: It has another form than spec 11.3 says.
    """
    text = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY)
    if text is None:
        return {}
    try:
        layers: Any = json.loads(text)["layers"]
        known = {str(name): dict(entry) for name, entry in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"The metadata '{METADATA_KEY}' is damaged: {error!r}.") from error
    for name, entry in known.items():
        for key in ("num_bits_d", "shift_bit"):
            values = entry.get(key, [])
            if not isinstance(values, list) or any(type(one) not in (int, type(None)) for one in values):
                raise RecordError(f"The metadata '{METADATA_KEY}' of layer '{name}': {key} is {values!r:.80}.")
    return known


# --- the model ---


def _graph(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> Graph:
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    inputs = {
        one.name: onnx.helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)
        for one in graph.input
        if one.name not in constants
    }
    nodes = tuple(_node(node, number, opsets) for number, node in enumerate(graph.node))
    return Graph(nodes=nodes, constants=constants, inputs=inputs, outputs=tuple(one.name for one in graph.output))


def _node(node: onnx.NodeProto, number: int, opsets: Mapping[str, int]) -> Node:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Node(
        name=node.name or f"{node.op_type}_{number}",
        op_type=node.op_type,
        domain=domain,
        opset=opsets.get(domain, opsets.get("ai.onnx", 1)),
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={one.name: _attribute(one, opsets) for one in node.attribute},
    )


def _attribute(attribute: onnx.AttributeProto, opsets: Mapping[str, int]) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type in _LIST_TYPES:
        return tuple(map(_text, value))
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.GraphProto):
        return _graph(value, opsets)
    return _text(value)


def _text(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value


_LIST_TYPES = (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS)


# --- the parameters ---


def _layers(graph: Graph, params: Mapping[str, LayerParam], metadata: Mapping[str, Any]) -> dict[str, Layer]:
    """Pairs nodes and parameters one to one; RecordError if a partner is missing: the layer would run in float."""
    nodes = {node.name: node for node in graph.nodes}
    if (twice := _repeated(node.name for node in graph.nodes)) is not None:
        raise RecordError(f"Two nodes of the deploy model are called '{twice}'.")
    for source, known in (("parameter file", [*params]), ("model's metadata", [*metadata])):
        lost = next((name for name in known if name not in nodes), None)
        if lost is not None:
            raise RecordError(f"Layer '{lost}' of the {source} is no node of the deploy model.")
    consumers = {name: positions for name, node in nodes.items() if (positions := _activations(node, graph))}
    missing = next((name for name in consumers if name not in params), None)
    if missing is not None:
        raise RecordError(f"Node '{missing}' of the deploy model has no entry in the parameter file.")
    return {name: _layer(params[name], at, metadata.get(name, {})) for name, at in consumers.items()}


def _activations(node: Node, graph: Graph) -> tuple[int, ...]:
    return tuple(at for at, name in enumerate(node.inputs) if name and name not in graph.constants)


def _layer(param: LayerParam, positions: tuple[int, ...], metadata: Mapping[str, Any]) -> Layer:
    if len(param.inputs) != len(positions):
        raise RecordError(
            f"Layer '{param.name}' has {len(param.inputs)} inputs in the parameter file, its node in the deploy model "
            f"consumes {len(positions)} activations."
        )
    bits = metadata.get("num_bits_d", [None] * len(positions))
    if len(bits) != len(positions):
        raise RecordError(f"Layer '{param.name}': num_bits_d has {len(bits)} values for {len(positions)} activations.")
    grids = {at: _grid(param.name, one, width) for at, one, width in zip(positions, param.inputs, bits, strict=True)}
    return Layer(
        grids={at: grid for at, grid in grids.items() if grid is not None},
        weight_scale=None if param.weight is None else _steps(param.name, param.weight.scale),
        shift_bit=_shift_bit(param.name, metadata.get("shift_bit", [])),
    )


def _grid(layer: str, factor: FactorParam, num_bits: int | None) -> Grid | None:
    if factor.data_type in (DataType.F16, DataType.F32):
        return None
    if factor.data_type not in _BITS_OF_TYPE or len(factor.scale) != 1 or len(factor.offset) != 1:
        raise RecordError(f"Layer '{layer}': no grid of an input can be {factor}.")
    default = _BITS_OF_TYPE[factor.data_type]
    num_bits = default if num_bits is None else num_bits
    if num_bits != default and not (default == 16 and 9 <= num_bits <= 16):
        raise RecordError(f"Layer '{layer}': num_bits_d is {num_bits}, the data type is {factor.data_type.name}.")
    offset = factor.offset[0]
    if not float(offset).is_integer():  # infinities and NaN are none either
        raise RecordError(f"Layer '{layer}': offset {offset} is no {num_bits} bit integer.")
    grid = Grid(scale=float(_steps(layer, factor.scale)[0]), offset=int(offset), num_bits=num_bits)
    if not grid.qmin <= grid.offset <= grid.qmax:
        raise RecordError(f"Layer '{layer}': offset {offset} is no {num_bits} bit integer.")
    return grid


def _steps(layer: str, reciprocals: tuple[float, ...]) -> NDArray[np.float64]:
    """Returns ``fl32(1 / scale of the file)``, as float64."""
    with np.errstate(divide="ignore", over="ignore"):
        steps = np.float32(1) / np.asarray(reciprocals, dtype=np.float32)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise RecordError(f"Layer '{layer}': a scale of the parameter file is {reciprocals[0]}; it must be positive.")
    return steps.astype(np.float64)


def _shift_bit(layer: str, values: list[int]) -> tuple[int, ...]:
    if not any(values):
        return ()
    if not all(value is not None and 1 <= value <= _MAX_SHIFT for value in values):
        raise RecordError(f"Layer '{layer}': shift_bit is {values}; it must be all 0, or each in 1..{_MAX_SHIFT}.")
    return tuple(values)
