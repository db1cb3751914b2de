"""SymbolicExample: inputs without data, whose dynamic axes have symbolic sizes."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from ...torch_private import constant_source, fake_tensor_mode, python_dispatcher
from ..torchscript.baked_values import is_user_file
from .example import DynamicAxis, Example, FixedAxis
from .graph_writer import GraphWriter
from .sizes import SizeWriter

_SMALLEST = 2  # broadcasting treats 0 and 1 differently; all sizes from 2 on behave alike


class SymbolicExample(Example):
    """Tensors without data; a size on whose value a decision was based is no longer free (`fixed`)."""

    def __init__(self, given: Mapping[str, Tensor], axes: Sequence[DynamicAxis]) -> None:
        """``given``: the user's tensors by name of the input; ``axes``: the dynamic axes."""
        sizes = _sizes(given, axes)
        super().__init__({name: _resized(tensor, sizes[name]) for name, tensor in given.items()})
        self._env = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False, duck_shape=False)
        self._fakes = fake_tensor_mode(shape_env=self._env)
        self._axes: dict[sympy.Symbol, DynamicAxis] = {}
        self._tensors = [self._input(name, tensor, axes) for name, tensor in self.real.items()]
        self._unite_labels()

    def tensors(self) -> list[Tensor]:
        """Returns the tensors for the inputs."""
        return self._tensors

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Returns a context in which calls of torch compute shapes only."""
        # Without the dispatcher some kernels need the value of a symbol.
        with super().running(), self._fakes, python_dispatcher():
            yield

    def fixed(self) -> list[FixedAxis]:
        """Returns the dynamic axes for which the graph so far is right with one size only."""
        found = ((axis, self._env.replacements.get(symbol)) for symbol, axis in self._axes.items())
        return [FixedAxis(axis, int(size)) for axis, size in found if isinstance(size, sympy.Integer)]

    def line_of(self, fixed: FixedAxis) -> str:
        """Returns the user's line that fixed an axis; empty if that was not in user code."""
        symbols = {symbol for symbol, axis in self._axes.items() if axis == fixed.axis}
        guard = next((one for one in reversed(self._env.guards) if symbols & one.expr.free_symbols), None)
        frame = None if guard is None else guard.sloc.framework_loc
        if not isinstance(frame, traceback.FrameSummary) or not is_user_file(frame.filename):
            return ""
        return f"{frame.filename}:{frame.lineno}: {frame.line}"

    def fix(self, value: Any) -> None:
        """Fixes the dynamic axes on which ``value`` depends."""
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return
        needed = value.node.expr.free_symbols
        sizes: list[Any] = [size for tensor in self._tensors for size in tensor.shape]
        for size in (one for one in sizes if isinstance(one, torch.SymInt)):
            if needed & size.node.expr.free_symbols:
                int(size)  # torch then takes the symbol for a number

    def label(self, size: Any) -> int | str | None:
        """Returns the ONNX form of a size."""
        expression = size if isinstance(size, int) else size.node.expr
        if isinstance(expression, (int, sympy.Integer)):
            return int(expression)
        return self._axes[expression].label if expression in self._axes else None

    def with_data(self, tensor: Tensor) -> Tensor:
        """Returns zeros of the shape of ``tensor``."""
        shape = [size if isinstance(size, int) else size.node.hint for size in tensor.shape]
        return torch.zeros(shape, dtype=tensor.dtype)

    def sizes(self, writer: GraphWriter, inputs: Sequence[Any]) -> SizeWriter:
        """Returns the writer of the symbolic sizes of ``inputs``."""
        sizes = SizeWriter(writer)
        for tensor, value in zip(self._tensors, inputs, strict=True):
            sizes.add_sources(tensor, value)
        return sizes

    def _input(self, name: str, tensor: Tensor, axes: Sequence[DynamicAxis]) -> Tensor:
        own = {axis.axis: axis for axis in axes if axis.input == name}
        fake = self._fake(name, tensor, [index in own for index in range(tensor.dim())])
        self._axes |= {fake.shape[index].node.expr: axis for index, axis in own.items()}  # type: ignore[attr-defined]
        return fake

    def _fake(self, name: str, tensor: Tensor, is_dynamic: Sequence[bool]) -> Tensor:
        kinds = [DimDynamic.DYNAMIC if one else DimDynamic.STATIC for one in is_dynamic]
        context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(dynamic_sizes=kinds)
        fake: Tensor = self._fakes.from_tensor(tensor, source=constant_source(name), symbolic_context=context)
        return fake

    def _unite_labels(self) -> None:
        first: dict[str, Any] = {}
        sizes: list[Any] = [size for tensor in self._tensors for size in tensor.shape]
        for size in (one for one in sizes if isinstance(one, torch.SymInt)):
            axis = self._axes[size.node.expr]  # read before the comparison, after which equal sizes share a symbol
            assert bool(first.setdefault(axis.label, size) == size), "axes of one label were given one size"


def _sizes(given: Mapping[str, Tensor], axes: Sequence[DynamicAxis]) -> dict[str, list[int]]:
    """Returns the sizes for the run by input: dynamic sizes are not 1, and equal for equal labels."""
    sizes = {name: list(tensor.shape) for name, tensor in given.items()}
    labels = {axis.label: max(_SMALLEST, sizes[axis.input][axis.axis]) for axis in axes}
    for axis in axes:
        sizes[axis.input][axis.axis] = labels[axis.label]
    return sizes


def _resized(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns ``tensor`` with ``sizes``, its content repeated."""
    for axis, wanted in enumerate(sizes):
        if tensor.shape[axis] != wanted and tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(wanted) % tensor.shape[axis])
    return tensor if list(tensor.shape) == list(sizes) else tensor.new_zeros(*sizes)
