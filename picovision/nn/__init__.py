"""The classes of ``hotwheels.amct_pytorch.nn``, not copies of them."""

from hotwheels.amct_pytorch.nn import modules
from hotwheels.amct_pytorch.nn.modules import (
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
