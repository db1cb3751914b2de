"""Call: one call of a torch function, with the methods by which a handler writes its nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...onnx_io.opset import OpsetTooLow
from .graph_writer import Attribute, GraphWriter
from .tensor_values import TensorValues
from .types import array_of, onnx_type

if TYPE_CHECKING:
    from .sizes import SizeWriter  # importing it takes seconds

Number = bool | int | float
Scalar = Number | torch.SymInt | torch.SymFloat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Attributes:
      function: The function of torch.
      args: The positional arguments: tensors, numbers, sizes.
      kwargs: The keyword arguments.
      result: The result: tensors with their shapes and types.
      writer: The graph to which nodes are added.
      values: The ONNX values of the tensors.
      sizes: Writes sizes that depend on the inputs; None if there are none.
      layer: Name of the quantized layer of this call; None between layers.
      name_of_constant: Returns the name of a parameter or buffer, an empty text for other constants.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    writer: GraphWriter
    values: TensorValues
    sizes: SizeWriter | None
    layer: str | None
    name_of_constant: Callable[[Tensor], str]

    @property
    def opset(self) -> int:
        """The opset that is written."""
        return self.writer.opset

    def need_opset(self, opset: int, what: str) -> None:
        """Raises OpsetTooLow if the opset written is lower."""
        if self.opset < opset:
            raise OpsetTooLow(opset, f"{what} was added in version {opset} of the ONNX operators")

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Writes a node with one output and returns the output; attributes that are None are left out."""
        return self.writer.op(op_type, *inputs, domain=domain, **attributes)

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Attribute
    ) -> list[ir.Value]:
        """Writes a node and returns its ``outputs``."""
        return list(self.writer.ops(op_type, *inputs, outputs=outputs, domain=domain, **attributes))

    # --- operands ---

    def value(self, x: Tensor | Scalar, dtype: torch.dtype | None = None) -> ir.Value:
        """Returns the ONNX value of ``x``, cast to ``dtype`` if it has another type; numbers need a ``dtype``."""
        if not isinstance(x, Tensor):
            assert dtype is not None, "a number needs a dtype"
            return self.number(x, dtype)
        found = self.values.find(x)
        if found is None:
            return self.constant(x if dtype is None else x.to(dtype))
        return found if dtype in (None, x.dtype) else self.op("Cast", found, to=int(onnx_type(dtype)))

    def constant(self, x: Tensor) -> ir.Value:
        """Returns a tensor that does not depend on the inputs as an initializer."""
        return self.writer.initializer(x, self.name_of_constant(x))

    def is_constant(self, x: object) -> bool:
        """Whether ``x`` is a number, or a tensor that does not depend on the inputs."""
        return x not in self.values if isinstance(x, Tensor) else not isinstance(x, (torch.SymInt, torch.SymFloat))

    def number(self, x: Scalar, dtype: torch.dtype) -> ir.Value:
        """Returns a number as a scalar of ``dtype``."""
        if isinstance(x, (torch.SymInt, torch.SymFloat)):
            assert self.sizes is not None
            return self.op("Cast", self.sizes.scalar(x), to=int(onnx_type(dtype)))
        return self.writer.constant(array_of(torch.tensor(x, dtype=dtype)), dtype=onnx_type(dtype))

    def array(self, array: NDArray[np.generic]) -> ir.Value:
        """Returns a constant array."""
        return self.writer.constant(array)

    def ints(self, numbers: Sequence[int | torch.SymInt]) -> ir.Value:
        """Returns a vector of int64."""
        if all(isinstance(one, int) for one in numbers):
            return self.writer.constant(np.array(numbers, dtype=np.int64))
        assert self.sizes is not None
        return self.sizes.vector(numbers)

    def scalar_int(self, x: int | torch.SymInt) -> ir.Value:
        """Returns a scalar of int64."""
        return self.number(x, torch.int64)
