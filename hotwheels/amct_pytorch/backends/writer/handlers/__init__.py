"""The handlers by family of operations; importing the package fills the table."""

from . import (
    activation,
    arithmetic,
    conversion,
    convolution,
    creation,
    custom,
    indexing,
    movement,
    normalization,
    not_finite,
    pooling,
    recurrent,
    reduction,
    resize,
    scattering,
    shape,
)

__all__ = [
    "activation",
    "arithmetic",
    "conversion",
    "convolution",
    "creation",
    "custom",
    "indexing",
    "movement",
    "normalization",
    "not_finite",
    "pooling",
    "recurrent",
    "reduction",
    "resize",
    "scattering",
    "shape",
]
