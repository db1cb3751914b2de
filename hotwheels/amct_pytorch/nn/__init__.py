"""Modules with hardware-friendly operators: ``amct.nn.GELU`` and its like (spec 12)."""

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
