"""An einsum of two operands as a matrix product: the axes of both are brought into the order of ``torch.matmul``.

Axes are of four kinds: ``batch`` axes are in both operands and in the result, ``summed`` in both operands only,
``left`` and ``right`` in one operand and in the result. The product is

    [batch..., left, summed] @ [batch..., summed, right],

where several summed (or right, or, beside batch axes, left) axes are flattened into one, and none is an axis of size 1.
Without batch axes the left ones stay as they are: a product with a matrix takes any number of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.fx import Proxy

_REST = "."  # represents the axes of an ellipsis, of any number


@dataclasses.dataclass(frozen=True)
class Product:
    """An einsum that is a matrix product.

    Attributes:
      first: The axes of the first operand, one letter each.
      second: The axes of the second operand.
      result: The axes of the result.
    """

    first: str
    second: str
    result: str

    @property
    def batch(self) -> str:
        """Axes of both operands and of the result, in the order of the result."""
        return "".join(axis for axis in self.result if axis in self.first and axis in self.second)

    @property
    def summed(self) -> str:
        """Axes of both operands only."""
        return "".join(axis for axis in self.first if axis in self.second and axis not in self.result)

    @property
    def left(self) -> str:
        """Axes of the first operand and the result, in the order of the result."""
        return "".join(axis for axis in self.result if axis not in self.second)

    @property
    def right(self) -> str:
        """Axes of the second operand and the result, in the order of the result."""
        return "".join(axis for axis in self.result if axis not in self.first)

    def arranged(self, first: Proxy, second: Proxy) -> tuple[Proxy, Proxy]:
        """Returns the two operands of the matrix product."""
        batch, start = self.batch, len(self.batch)
        first = _permuted(first, self.first, batch + self.left + self.summed)
        second = _permuted(second, self.second, batch + self.summed + self.right)
        if _REST in self.left:
            first = _merged_last(first, len(self.summed))
        else:
            first = _merged(first, start + len(self.left), len(self.summed))
            if batch:
                first = _merged(first, start, len(self.left))
        second = _merged(second, start + len(self.summed), len(self.right))
        return first, _merged(second, start, len(self.summed))

    def restored(self, result: Proxy, first: Proxy, second: Proxy) -> Proxy:
        """Returns the result of the einsum of ``first`` and ``second`` from the ``result`` of the matrix product."""
        start, sizes = len(self.batch), {}
        for axes, operand in ((self.first, first), (self.second, second)):
            sizes.update({axis: (operand, index) for index, axis in enumerate(axes)})

        def parts(axes: str) -> list[Proxy]:
            return [sizes[axis][0].size(sizes[axis][1]) for axis in axes]

        if len(self.right) != 1:
            result = result.unflatten(-1, parts(self.right)) if self.right else result.squeeze(-1)
        if self.batch and len(self.left) != 1:
            result = result.unflatten(start, parts(self.left)) if self.left else result.squeeze(start)
        return _permuted(result, self.batch + self.left + self.right, self.result)


def as_product(equation: str) -> Product | None:
    """Returns ``equation`` (``"bij,bjk->bik"``) as a matrix product; None if it is none."""
    inputs, arrow, result = equation.replace(" ", "").replace("...", _REST).partition("->")
    operands = inputs.split(",")
    if len(operands) != 2:
        return None
    first, second = operands
    if not arrow:  # then the result has the letters that occur once, in alphabetical order
        result = "".join(sorted(axis for axis in {*first, *second} if (first + second).count(axis) == 1))
    found = Product(first, second, result)
    is_known = all(len(set(axes)) == len(axes) for axes in (first, second, result))
    is_complete = {*result} >= {*first} ^ {*second} and bool(found.summed)
    return found if is_known and is_complete and _is_in_place(found) else None


def _is_in_place(product: Product) -> bool:
    """Whether no axis has to move past an ellipsis, whose number of axes is not known."""
    if _REST not in product.first + product.second:
        return True
    has_first = _REST not in product.second and product.first == product.left + product.summed
    return has_first and product.first[0] == _REST and product.result == product.left + product.right


def _permuted(x: Proxy, axes: str, wanted: str) -> Proxy:
    return x if axes == wanted else x.permute(*(axes.index(axis) for axis in wanted))


def _merged(x: Any, start: int, count: int) -> Any:
    """Makes one axis of ``count`` axes from ``start`` on."""
    if count == 1:
        return x
    return x.flatten(start, start + count - 1) if count else x.unsqueeze(start)


def _merged_last(x: Any, count: int) -> Any:
    return x if count == 1 else x.flatten(-count, -1)
