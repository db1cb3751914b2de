"""Convolutions and linear functions called with a weight of the model, as modules with ``weight`` and ``bias``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .computed_tensor import ComputedTensor, Tree
from .convolution import convolve, convolve_transposed
from .padding import Margins


class WeightedCall(nn.Module):
    """A call of a torch function with a weight; each subclass also derives from the module class of that function.

    ``weight`` and ``bias`` are computed from the parameters of the model each time they are read. The parameters stay
    where the model registers them: this module has no state of its own.

    Attributes:
      function: The torch function; of a class, like the next two.
      twin: The module class that computes the same.
      settings: Names of the function's arguments behind input, weight and bias, in order.
      weight_source: Computes the weight. Calls with the same weight share this object.
      bias_source: Computes the bias, None without bias.
      margins: Zeros in front of a convolution (see `padding`); None without any.
    """

    amct_leaf = True
    function: ClassVar[Callable[..., Tensor]]
    twin: ClassVar[type[nn.Module]]
    settings: ClassVar[tuple[str, ...]] = ()
    margins: Margins | None = None

    def __init__(self, twin: nn.Module, weight: ComputedTensor, bias: ComputedTensor | None) -> None:
        """Copies the settings, such as strides, of ``twin``, a module that computes the same."""
        nn.Module.__init__(self)  # the constructor of the twin's class would make parameters
        own = vars(self)
        own.update({name: value for name, value in vars(twin).items() if name not in own and name != "weight"})
        self.weight_source = weight
        self.bias_source = bias

    @classmethod
    def of(cls, module: nn.Module, weight: ComputedTensor, bias: ComputedTensor | None) -> WeightedCall:
        """Returns a call with the settings of ``module``, an object of the module class, and this weight and bias."""
        made = cls.__new__(cls)
        WeightedCall.__init__(made, module, weight, bias)
        return made

    @property
    def tree(self) -> Tree:
        """The model in which the parameters are looked up; all calls of a model share this object."""
        return self.weight_source.tree

    @property
    def weight(self) -> Tensor:
        """The weight, in the layout of the module class; differentiable."""
        weight: Tensor = self.weight_source()
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias [C_out], differentiable; None without bias."""
        return None if self.bias_source is None else self.bias_source()

    def forward(self, input: Tensor) -> Tensor:
        """Calls the function."""
        result: Tensor = self._compute(input, self.weight, self.bias)
        return result

    def in_double(self, input: Tensor) -> Tensor:
        """Calls the function in float64, with the float32 values of weight and bias."""
        bias = self.bias
        return self._compute(input.double(), self.weight.double(), None if bias is None else bias.double())

    def _compute(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class _ConvCall(WeightedCall):
    """A convolution."""

    settings = ("stride", "padding", "dilation", "groups")

    def __init__(self, weight: ComputedTensor, bias: ComputedTensor | None = None, **settings: Any) -> None:
        """``settings`` are stride, padding, dilation and groups, as the function's arguments."""
        outputs, inputs, *kernel = weight().shape
        inputs *= settings.get("groups", 1)
        super().__init__(self.twin(inputs, outputs, kernel, **settings, **_twin(bias)), weight, bias)

    def _compute(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(self, input, weight, bias)


class Conv2dCall(_ConvCall, nn.Conv2d):  # type: ignore[override]
    """``F.conv2d``."""

    function, twin = staticmethod(F.conv2d), nn.Conv2d


class Conv1dCall(_ConvCall, nn.Conv1d):  # type: ignore[override]
    """``F.conv1d``."""

    function, twin = staticmethod(F.conv1d), nn.Conv1d


class _ConvTransposeCall(WeightedCall):
    """A transposed convolution."""

    settings = ("stride", "padding", "output_padding", "groups", "dilation")

    def __init__(self, weight: ComputedTensor, bias: ComputedTensor | None = None, **settings: Any) -> None:
        """``settings`` are stride, padding, output_padding, groups and dilation, as the function's arguments."""
        inputs, outputs, *kernel = weight().shape
        outputs *= settings.get("groups", 1)
        super().__init__(self.twin(inputs, outputs, kernel, **settings, **_twin(bias)), weight, bias)

    def _compute(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve_transposed(self, input, weight, bias, None)


class ConvTranspose2dCall(_ConvTransposeCall, nn.ConvTranspose2d):  # type: ignore[misc, override]
    """``F.conv_transpose2d``."""

    function, twin = staticmethod(F.conv_transpose2d), nn.ConvTranspose2d


class ConvTranspose1dCall(_ConvTransposeCall, nn.ConvTranspose1d):  # type: ignore[misc, override]
    """``F.conv_transpose1d``."""

    function, twin = staticmethod(F.conv_transpose1d), nn.ConvTranspose1d


class LinearCall(WeightedCall, nn.Linear):  # type: ignore[misc, override]
    """``F.linear``, or a product with a matrix.

    Attributes:
      is_product: Whether it is spelled as a product, such as ``x @ w``.
    """

    function, twin = staticmethod(F.linear), nn.Linear
    is_product = False

    def __init__(self, weight: ComputedTensor, bias: ComputedTensor | None = None, is_product: bool = False) -> None:
        """``weight`` is [C_out, C_in]."""
        self.is_product = is_product
        outputs, inputs = weight().shape
        super().__init__(self.twin(inputs, outputs, **_twin(bias)), weight, bias)

    def _compute(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, weight, bias)


CALLS: tuple[type[WeightedCall], ...] = (Conv2dCall, Conv1dCall, ConvTranspose2dCall, ConvTranspose1dCall, LinearCall)


def _twin(bias: ComputedTensor | None) -> dict[str, Any]:
    """Returns constructor arguments of a module that only provides settings, so its parameters need no memory."""
    return {"bias": bias is not None, "device": torch.device("meta")}
