"""Cost: what a node of a deploy pair needs, estimated from shapes before memory is taken or time is spent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .deploy_pair import Layer, Node
from .ops.convolution import transposed_geometry
from .ops.reference import OP_TYPES
from .ops.resize import targets
from .ops.windows import windows
from .values import Accumulator, Centred, Value

_WORD = 8  # bytes of a float64, in which reals are computed
_MOST_NUMBERS = 128  # in a shape, or in pads
# Work in operations, each of 0.3 to 1 ns. A YOLOv5s at 640 x 640 has 1.3e10, a ViT-B/16 1.8e10.
_NODE = 30_000.0
_REFERENCE = 1_000_000.0  # a node that onnx's reference runs
_STEP = 5_000.0  # one turn of a loop in Python
_PRODUCT = 0.1  # a multiplication and an addition in a product of matrices
_COPY = 8.0  # an element that is copied
_ELEMENT = 40.0  # an element of a result, for all passes over it
_QUANTIZED = 60.0  # an element that is put on a grid
# Elements of other operators, where the default is too low.
_SLOW: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(("Erf", "Gelu", "Mish", "TopK", "Unique", "ArgMax", "ArgMin", "Pow", "Mod"), 250.0),
        **dict.fromkeys(("ScatterElements", "ScatterND", "ReverseSequence", "Hardmax", "OneHot"), 10_000.0),
    }
)
_SAMPLED = MappingProxyType({"nearest": 60.0, "linear": 250.0, "cubic": 1_000.0})
# Arrays of the result's size that a kernel holds at one time, the result included.
_ARRAYS = 4
_ARRAYS_OF: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Relu", "Neg", "Max", "Min", "Sum", "Sqrt", "Exp", "Sigmoid"), 2),
        **dict.fromkeys(("Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"), 2),
        **dict.fromkeys(("Tanh", "Identity", "ConstantOfShape", "Expand", "Range", "Tile", "Pad", "Gather"), 2),
        **dict.fromkeys(("Constant", "MaxPool", "AveragePool"), 2),
        **dict.fromkeys(("Erf", "Gelu"), 8),  # of Python's numbers
    }
)
_GRID_BYTES = 40  # per element while a tensor is put on a grid: real, quotient, rounded, clipped, integers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a node needs beside its inputs.

    Attributes:
      memory: Bytes at its peak.
      work: Operations.
    """

    memory: float
    work: float


def cost_of(node: Node, values: Sequence[Value | None], layer: Layer) -> Cost:
    """Returns the cost of ``node`` on ``values``, with grids on the inputs that ``layer`` names."""
    shapes = [None if value is None else _shape(value) for value in values]
    sizes = [0 if shape is None else math.prod(shape) for shape in shapes]
    result, scratch, work = _RULES.get(node.op_type, _elementwise)(_Call(node, values, shapes))
    quantized = sum(sizes[at] for at in layer.grids if at < len(sizes))
    read = sum(sizes)
    arrays = _ARRAYS_OF.get(node.op_type, _ARRAYS)
    return Cost(
        memory=_WORD * (arrays * result + scratch + read) + _GRID_BYTES * quantized,
        work=work
        + (_REFERENCE if node.op_type in OP_TYPES else _NODE)
        + _SLOW.get(node.op_type, _ELEMENT) * max(result, read)
        + _QUANTIZED * quantized
        + _STEP * len(node.outputs),
    )


@dataclasses.dataclass(frozen=True)
class _Call:
    node: Node
    values: Sequence[Value | None]
    shapes: Sequence[tuple[int, ...] | None]

    def shape(self, at: int) -> tuple[int, ...]:
        """Returns the shape of an input that the operator requires."""
        found = self.shapes[at] if at < len(self.shapes) else None
        if found is None:
            raise ValueError("a required input is absent.")
        return found

    def numbers(self, at: int) -> list[int]:
        """Returns a required input as integers: a shape or the like."""
        self.shape(at)
        array = _array(self.values[at])
        if array.size > _MOST_NUMBERS:  # their product would be a number of a million digits
            raise ValueError(f"a shape of {array.size:,} numbers is given.")
        return [int(one) for one in array.reshape(-1)]


# (elements of all results, elements of further memory, operations without those of each element)
_Estimate = tuple[float, float, float]


def _shape(value: Value) -> tuple[int, ...]:
    if isinstance(value, Accumulator):
        return value.sums.shape
    return value.integers.shape if isinstance(value, Centred) else value.shape


def _elementwise(call: _Call) -> _Estimate:
    given = [shape for shape in call.shapes if shape is not None]
    try:
        return math.prod(np.broadcast_shapes(*given)), 0, 0
    except ValueError:
        return sum(map(math.prod, given)), 0, 0


def _concatenated(call: _Call) -> _Estimate:
    return sum(math.prod(shape) for shape in call.shapes if shape is not None), 0, 0


def _expanded(call: _Call) -> _Estimate:
    return math.prod(np.broadcast_shapes(call.shape(0), tuple(call.numbers(1)))), 0, 0


def _tiled(call: _Call) -> _Estimate:
    return math.prod((*call.shape(0), *call.numbers(1))), 0, 0


def _padded(call: _Call) -> _Estimate:
    pads = call.numbers(1) if len(call.values) > 1 else list(call.node.get("pads"))
    half = len(pads) // 2
    added = [max(begin, 0) + max(end, 0) for begin, end in zip(pads[:half], pads[half:], strict=True)]
    if len(call.values) > 3 and call.values[3] is not None:
        axes = call.numbers(3)
    else:
        axes = list(range(len(added)))
    sizes = list(call.shape(0))
    for axis, more in zip(axes, added, strict=True):
        sizes[axis] += more
    return math.prod(sizes), 0, 0


def _range(call: _Call) -> _Estimate:
    start, limit, delta = (float(np.reshape(one, ())) for one in map(_array, call.values))
    return (abs((limit - start) / delta) if delta else 0), 0, 0


def _array(value: Value | None) -> NDArray[Any]:
    if value is None:
        raise ValueError("a required input is absent.")
    return value if isinstance(value, np.ndarray) else value.real()


def _filled(call: _Call) -> _Estimate:
    return math.prod(call.numbers(0)), 0, 0


def _gathered(call: _Call) -> _Estimate:
    shape, axis = call.shape(0), call.node.get("axis", 0)
    return math.prod((*shape[:axis], *call.shape(1), *shape[axis:][1:])), 0, 0


def _gathered_nd(call: _Call) -> _Estimate:
    indices = call.shape(1)
    return math.prod((*indices[:-1], *call.shape(0)[indices[-1] :])), 0, 0


def _one_hot(call: _Call) -> _Estimate:
    return math.prod(call.shape(0)) * call.numbers(1)[0], 0, 0


def _top(call: _Call) -> _Estimate:
    return call.numbers(1)[0] + math.prod(call.shape(0)), math.prod(call.shape(0)), 0


def _positions(call: _Call) -> _Estimate:
    return len(call.shape(0)) * math.prod(call.shape(0)), 0, 0


def _einsum(call: _Call) -> _Estimate:
    given, arrow, result = str(call.node.get("equation", "")).replace(" ", "").partition("->")
    result = result if arrow else "".join(label for label in given if given.count(label) == 1)
    sizes = {
        label: size
        for term, shape in zip(given.split(","), call.shapes, strict=False)
        for label, size in zip(term, shape or (), strict=False)
    }
    every = math.prod(sizes.values())  # NumPy loops over all labels
    return math.prod(sizes.get(label, 1) for label in result), 0, 2.0 * every


def _product(call: _Call) -> _Estimate:
    left, right = call.shape(0), call.shape(1)
    if call.node.op_type == "Gemm":
        left = left[::-1] if call.node.get("transA", 0) else left
        right = right[::-1] if call.node.get("transB", 0) else right
    rows, columns = (left[-2] if len(left) > 1 else 1), (right[-1] if len(right) > 1 else 1)
    result = math.prod(np.broadcast_shapes(left[:-2], right[:-2])) * rows * columns
    return result, 2 * (math.prod(left) + math.prod(right)), _PRODUCT * result * (left[-1] if left else 1)


def _convolved(call: _Call) -> _Estimate:
    shape, weight = call.shape(0), call.shape(1)
    geometry = windows(call.node, shape[2:], weight[2:])
    places, taps = math.prod(geometry.output), math.prod(weight[2:])
    columns = shape[1] * taps * places
    padded = shape[0] * shape[1] * math.prod(geometry.padded_sizes())
    products = shape[0] * math.prod(weight) * places
    loops = _STEP * shape[0] * taps
    scratch = 2 * math.prod(shape) + padded + columns + 3 * math.prod(weight)
    return shape[0] * weight[0] * places, scratch, _PRODUCT * products + _COPY * shape[0] * columns + loops


def _transposed(call: _Call) -> _Estimate:
    shape, weight = call.shape(0), call.shape(1)
    full, _, _ = transposed_geometry(call.node, shape[2:], weight[2:])
    result = shape[0] * weight[1] * call.node.get("group", 1) * math.prod(full.size)
    products = math.prod(weight[1:]) * call.node.get("group", 1) * math.prod(shape[2:])
    work = _PRODUCT * shape[0] * math.prod(weight) * math.prod(shape[2:]) + _COPY * shape[0] * products
    loops = _STEP * shape[0] * math.prod(weight[2:])
    return result, products + 2 * math.prod(shape) + 3 * math.prod(weight), work + loops


def _pooled(call: _Call) -> _Estimate:
    shape, kernel = call.shape(0), call.node.get("kernel_shape")
    if kernel is None:  # a global pooling
        return math.prod(shape[:2]), math.prod(shape), 0
    geometry = windows(call.node, shape[2:], kernel, ceil_mode=bool(call.node.get("ceil_mode", 0)))
    result, between, work, sizes = 0, 0, 0.0, list(shape)
    for at, count in enumerate(geometry.output):
        taps = min(geometry.kernel[at], sizes[at + 2])
        sizes[at + 2] = count
        result = math.prod(sizes)
        between = max(between, result)
        work += result * taps * 2 + 2 * _STEP * count
    if len(call.node.outputs) > 1:  # the indices of maxima
        taps = math.prod(kernel)
        padded = math.prod(shape[:2]) * math.prod(geometry.padded_sizes())
        return 4 * result, 2 * between + 2 * padded, work + taps * (_STEP + _ELEMENT * result)
    return result, 2 * between + sum(geometry.padded_sizes()), work


def _resized(call: _Call) -> _Estimate:
    sizes = list(call.shape(0))
    arrays = [np.broadcast_to(0.0, call.shape(0)), *(one if one is None else _array(one) for one in call.values[1:])]
    largest = float(math.prod(sizes))
    for axis, (size, _) in sorted(targets(call.node, arrays).items(), reverse=True):
        sizes[axis] = size
        largest = max(largest, math.prod(sizes))
    passes = {"nearest": 1, "linear": 4, "cubic": 8}.get(call.node.get("mode", "nearest"), 1)
    return largest, 0, passes * _ELEMENT * largest


def _sampled(call: _Call) -> _Estimate:
    shape, grid = call.shape(0), call.shape(1)
    places = math.prod(grid[:-1])
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(str(call.node.get("mode")), str(call.node.get("mode")))
    rate = 60.0 if call.node.domain else _SAMPLED.get(mode, _SAMPLED["linear"])
    return places * math.prod(shape[1:2]), 12 * places, rate * places * math.prod(shape[1:2])


def _affine_grid(call: _Call) -> _Estimate:
    extents = call.numbers(1)[2:]
    places = math.prod(extents) * (len(extents) + 1)
    return call.shape(0)[0] * places, places * 2, 0


def _patched(call: _Call) -> _Estimate:
    size, kernel = call.numbers(1), call.numbers(2)
    geometry = windows(call.node, size, kernel)
    channels = math.prod(call.shape(0)) // max(math.prod(kernel) * math.prod(geometry.output), 1)
    return channels * math.prod(geometry.padded_sizes()), 0, _STEP * math.prod(kernel)


def _recurrent(call: _Call) -> _Estimate:
    x, weight = call.shape(0), call.shape(1)
    hidden, rows = call.node.get("hidden_size"), x[0] * weight[0] * x[1]
    steps = 10 * _STEP * x[0] * weight[0]
    return rows * hidden, 4 * weight[1] * x[1], steps + _PRODUCT * rows * weight[1] * (x[-1] + hidden)


def _constant(call: _Call) -> _Estimate:
    return sum(np.size(one) for one in call.node.attributes.values() if isinstance(one, np.ndarray | tuple)), 0, 0


_RULES: Mapping[str, Callable[[_Call], _Estimate]] = MappingProxyType(
    {
        "Concat": _concatenated,
        "Expand": _expanded,
        "Tile": _tiled,
        "Pad": _padded,
        "Range": _range,
        "ConstantOfShape": _filled,
        "Constant": _constant,
        "Gather": _gathered,
        "GatherND": _gathered_nd,
        "OneHot": _one_hot,
        "TopK": _top,
        "NonZero": _positions,
        "Einsum": _einsum,
        "MatMul": _product,
        "Gemm": _product,
        "Conv": _convolved,
        "ConvTranspose": _transposed,
        **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"), _pooled),
        **dict.fromkeys(("Resize", "Upsample"), _resized),
        **dict.fromkeys(("GridSample", "Warp", "GlobalWarp"), _sampled),
        "AffineGrid": _affine_grid,
        "Col2Im": _patched,
        **dict.fromkeys(("RNN", "LSTM", "GRU"), _recurrent),
    }
)
