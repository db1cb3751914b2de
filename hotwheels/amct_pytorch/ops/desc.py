"""OpDesc: the description of one operation, the only source of its properties for the whole package."""

from __future__ import annotations

import dataclasses
import enum


class Role(enum.Enum):
    """The kind of an operation, as far as quantization treats kinds differently (spec 8.3)."""

    CONV = "conv"  # Conv1d, Conv2d: weight and data
    CONV_TRANSPOSE = "conv_transpose"  # ConvTranspose1d, ConvTranspose2d: weight and data
    LINEAR = "linear"  # Linear: weight and data
    MATMUL = "matmul"  # two symmetric data inputs, the second counts as weight
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    MOVEMENT = "movement"  # moves or copies elements: transpose, cat, resize
    SHAPE = "shape"  # changes the shape only: quantized together with a non-shape neighbour
    FUSED_ACTIVATION = "fused_activation"  # belongs to the convolution in front of it
    ACTIVATION = "activation"
    NORM = "norm"
    BATCH_NORM = "batch_norm"
    EXTENSION = "extension"  # made quantizable by a capacity row or a custom_op folder


WEIGHTED = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR})
# Roles whose result never shares memory with an input: all but those that move or only view elements, and extensions.
_COMPUTING = WEIGHTED | {
    Role.MATMUL,
    Role.MAX_POOL,
    Role.AVG_POOL,
    Role.ELEMENTWISE,
    Role.FUSED_ACTIVATION,
    Role.ACTIVATION,
    Role.NORM,
    Role.BATCH_NORM,
}
# Operations each of whose results is an element of an input or a bound; so are those of every max pooling.
_COPYING = frozenset({"cat", "stack"})  # movements whose result is a copy for any number of tensors
_SELECTING = frozenset({"relu", "relu6", "clamp", "hardtanh", "max", "min", "cat", "stack"})
# Operations that compute each element of the result from one element of the only tensor among their arguments.
_POINTWISE = frozenset(
    {
        *("add", "sub", "mul", "div", "pow", "abs", "clamp", "relu", "relu6", "sigmoid", "tanh", "leaky_relu", "gelu"),
        *("elu", "log_sigmoid", "tanhshrink", "hardswish", "silu", "mish", "hardtanh", "softsign", "hardsigmoid"),
    }
)
CUBE = WEIGHTED | {Role.MATMUL, Role.MAX_POOL, Role.AVG_POOL}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operand:
    """One tensor argument that may be quantized.

    Attributes:
      name: Keyword name of the argument (``input``, ``other``, ``tensors``).
      position: Its position in a positional call; for methods position 0 is ``self``.
      is_list: If True the argument is a list or tuple of tensors, each one an input of its own (``cat``).
    """

    name: str
    position: int
    is_list: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpDesc:
    """One operation in all its spellings.

    Attributes:
      name: This package's name of the operation, e.g. ``add``.
      role: How quantization treats it.
      modules: Dotted public class paths, e.g. ``torch.nn.ReLU``.
      functions: Qualified function names, e.g. ``torch.nn.functional.relu``, ``operator.add``.
      methods: Bare names of Tensor methods, e.g. ``relu``, ``relu_``.
      operands: Quantizable tensor arguments of a function or method call, in call order; a module takes its
        positional arguments in the same order.
      module_operands: The operands of the module's forward if they differ from ``operands``, else None.
      listed_as: Name in the capacity file of an operation without module class; empty if that is ``name``.
      onnx_types: Types of the exported ONNX node, the usual one first; empty if it may be several nodes.
      image_axes: Number of axes along which a convolution or pooling moves its window.
      is_listed: Whether the capacity file lists the operation as quantizable. The registry sets this field and those
        below.
      is_default_enabled: Whether generated configurations enable the operation.
      allows_channel_wise: Whether the weight may have a scale per output channel; a Linear never (spec 6.1).
      has_shift: Whether records of the dynamic path hold a shift bit for the operation (spec 4.6).
    """

    name: str
    role: Role
    modules: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    operands: tuple[Operand, ...] = (Operand(name="input", position=0),)
    module_operands: tuple[Operand, ...] | None = None
    listed_as: str = ""
    onnx_types: tuple[str, ...] = ()
    image_axes: int = 2
    is_listed: bool = True
    is_default_enabled: bool = True
    allows_channel_wise: bool = False
    has_shift: bool = False

    @property
    def capacity_names(self) -> tuple[str, ...]:
        """The names of the operation in the capacity file: its module classes, else ``listed_as`` or ``name``."""
        return tuple(path.rpartition(".")[2] for path in self.modules) or (self.listed_as or self.name,)

    @property
    def has_weight(self) -> bool:
        """Whether its weight is quantized."""
        return self.role in WEIGHTED

    @property
    def makes_new_tensor(self) -> bool:
        """Whether the result of the out-of-place form never shares memory with an input."""
        return self.role in _COMPUTING or self.name in _COPYING

    @property
    def selects(self) -> bool:
        """Whether rounding inputs and result to one grid is the same as rounding the result alone (spec 8.6)."""
        return self.role is Role.MAX_POOL or self.name in _SELECTING

    @property
    def is_pointwise(self) -> bool:
        """Whether, with a single tensor among its arguments, an element of the result depends on one element of it."""
        return self.name in _POINTWISE and self.role is not Role.EXTENSION

    @property
    def is_cube(self) -> bool:
        """Whether the chip's matrix unit computes it (spec 0)."""
        return self.role in CUBE
