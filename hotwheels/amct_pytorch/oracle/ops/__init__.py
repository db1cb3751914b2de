"""NumPy kernels of the ONNX operators; importing the package fills the registry."""

from . import (
    activation,
    elementwise,
    indexing,
    movement,
    normalization,
    patches,
    recurrent,
    reduction,
    reference,
    resize,
    sampling,
    shape,
)
from .registry import find_kernel, is_movement

__all__ = [
    "activation",
    "elementwise",
    "find_kernel",
    "indexing",
    "is_movement",
    "movement",
    "normalization",
    "patches",
    "recurrent",
    "reduction",
    "reference",
    "resize",
    "sampling",
    "shape",
]
