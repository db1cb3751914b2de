"""SizeWriter: writes nodes for sizes that depend on the inputs of the graph, from their symbolic expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor

from ...errors import ExportError
from .graph_writer import GraphWriter


class UnknownExpression(ExportError):
    """A size's expression has a function that cannot be written."""

    def __init__(self, expression: str) -> None:
        super().__init__(
            f"a size is computed as {expression}, which cannot be written. Compute it in another way, or take the axis"
            " out of dynamic_axes."
        )


class SizeWriter:
    """Writes expressions in the symbols of the graph's inputs; each expression is written once.

    A size is a vector of one int64 (or double, inside an expression with fractions), so that one Concat joins sizes.
    The arithmetic is Python's: floor division and modulo round down, not towards zero.
    """

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._sources: dict[sympy.Symbol, tuple[ir.Value, int]] = {}
        self._written: dict[sympy.Expr, ir.Value] = {}
        self._shapes: dict[ir.Value, ir.Value] = {}
        self._scalars: dict[sympy.Expr, ir.Value] = {}

    def add_sources(self, tensor: Tensor, value: ir.Value) -> None:
        """Makes ``value`` the source of those sizes of ``tensor`` that are single symbols."""
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, torch.SymInt) and isinstance(expression := size.node.expr, sympy.Symbol):
                self._sources.setdefault(expression, (value, axis))

    def scalar(self, size: torch.SymInt | torch.SymFloat) -> ir.Value:
        """Returns ``size`` as a scalar: int64, or double if it is a fraction."""
        expression = size.node.expr
        if expression not in self._scalars:
            value = self._of(expression)
            with self._writer.in_scope(""):
                self._scalars[expression] = self._writer.op("Squeeze", value, self._constant([0]))
        return self._scalars[expression]

    def vector(self, sizes: Sequence[int | torch.SymInt]) -> ir.Value:
        """Returns ``sizes`` as a vector of int64."""
        parts = [self._constant([one]) if isinstance(one, int) else self._of(one.node.expr) for one in sizes]
        return parts[0] if len(parts) == 1 else self._writer.op("Concat", *parts, axis=0)

    def _of(self, expression: sympy.Expr) -> ir.Value:
        if expression not in self._written:
            with self._writer.in_scope(""):
                self._written[expression] = self._write(expression)
        return self._written[expression]

    def _write(self, expression: sympy.Expr) -> ir.Value:
        if isinstance(expression, sympy.Integer):
            return self._constant([int(expression)])
        if isinstance(expression, (sympy.Float, sympy.Rational)):
            return self._writer.constant(np.array([float(expression)], dtype=np.float64))
        if isinstance(expression, sympy.Symbol):
            return self._symbol(expression)
        rule = _RULES.get(_kind(expression))
        if rule is None:
            raise UnknownExpression(str(expression))
        operands = [self._operand(one, is_double=_is_double(expression)) for one in expression.args]
        result = operands[0]
        if len(operands) == 1:
            return rule(self._writer, result)
        for operand in operands[1:]:
            result = rule(self._writer, result, operand)
        return result

    def _operand(self, expression: sympy.Expr, *, is_double: bool) -> ir.Value:
        value = self._of(expression)
        return _to_double(self._writer, value) if is_double and not _is_double(expression) else value

    def _symbol(self, symbol: sympy.Symbol) -> ir.Value:
        if symbol not in self._sources:
            raise UnknownExpression(str(symbol))
        value, axis = self._sources[symbol]
        if value not in self._shapes:
            self._shapes[value] = self._writer.op("Shape", value)
        return self._writer.op("Gather", self._shapes[value], self._constant([axis]), axis=0)

    def _constant(self, numbers: list[int]) -> ir.Value:
        return self._writer.constant(np.array(numbers, dtype=np.int64))


def _is_double(expression: sympy.Expr) -> bool:
    """Whether the expression is written as a double, not as an integer."""
    if _kind(expression) in ("Float", *_FRACTIONS):
        return True
    if _kind(expression) in _ROUNDINGS:
        return False
    return any(_is_double(one) for one in expression.args)


def _kind(expression: sympy.Expr) -> str:
    return type(expression).__name__


def _node(op_type: str) -> Callable[..., ir.Value]:
    return lambda writer, *inputs: writer.op(op_type, *inputs)


def _floor_div(writer: GraphWriter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Writes floor division: ONNX's Div of integers rounds towards zero, but its Mod rounds down like Python's."""
    return writer.op("Div", writer.op("Sub", a, writer.op("Mod", a, b)), b)


def _ceil_div(writer: GraphWriter, a: ir.Value, b: ir.Value) -> ir.Value:
    return writer.op("Neg", _floor_div(writer, writer.op("Neg", a), b))


def _to_double(writer: GraphWriter, a: ir.Value) -> ir.Value:
    return writer.op("Cast", a, to=int(ir.DataType.DOUBLE))


def _to_int(op_type: str | None) -> Callable[..., ir.Value]:
    def write(writer: GraphWriter, a: ir.Value) -> ir.Value:
        rounded = a if op_type is None else writer.op(op_type, a)
        return writer.op("Cast", rounded, to=int(ir.DataType.INT64))

    return write


def _true_div(writer: GraphWriter, a: ir.Value, b: ir.Value) -> ir.Value:
    return writer.op("Div", a, b)  # the operands are doubles by now


# By name of the class of sympy or torch; torch's classes have no public module.
_FRACTIONS = ("ToFloat", "IntTrueDiv", "FloatTrueDiv", "FloatPow", "OpaqueUnaryFn_sqrt")
_ROUNDINGS = ("TruncToInt", "FloorToInt", "CeilToInt", "RoundToInt")
_RULES: Mapping[str, Callable[..., ir.Value]] = {
    "Add": _node("Add"),
    "Mul": _node("Mul"),
    "Pow": _node("Pow"),
    "PowByNatural": _node("Pow"),
    "FloatPow": _node("Pow"),
    "OpaqueUnaryFn_sqrt": lambda writer, a: writer.op("Sqrt", a),
    "FloorDiv": _floor_div,
    "CleanDiv": _floor_div,
    "CeilDiv": _ceil_div,
    "Mod": _node("Mod"),
    "PythonMod": _node("Mod"),
    "Max": _node("Max"),
    "Min": _node("Min"),
    "ToFloat": lambda _, a: a,  # cast as the operand of a fraction
    "IntTrueDiv": _true_div,
    "FloatTrueDiv": _true_div,
    "TruncToInt": _to_int(None),  # a Cast to an integer cuts the fraction
    "FloorToInt": _to_int("Floor"),
    "CeilToInt": _to_int("Ceil"),
    "RoundToInt": _to_int("Round"),
}
