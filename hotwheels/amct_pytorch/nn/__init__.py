"""Modules for operators that the chip executes as one, such as ``amct.nn.GELU`` (spec 12)."""

from . import modules
from .modules import (
    GELU,
    DepthToSpace,
    GlobalWarp,
    LayerNorm,
    Mlp,
    MultiheadConvAttention,
    SpaceToDepth,
    Warp,
)

__all__ = [
    "GELU",
    "DepthToSpace",
    "GlobalWarp",
    "LayerNorm",
    "Mlp",
    "MultiheadConvAttention",
    "SpaceToDepth",
    "Warp",
    "modules",
]
