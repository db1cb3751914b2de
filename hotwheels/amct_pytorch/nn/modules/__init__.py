"""The modules of ``amct.nn``: operations which the NPU runs in one piece, and blocks built of them."""

from .attention import MultiheadConvAttention
from .depth_to_space import DepthToSpace
from .gelu import GELU
from .layer_norm import LayerNorm
from .mlp import Mlp
from .space_to_depth import SpaceToDepth
from .warp import GlobalWarp, Warp

__all__ = [
    "GELU",
    "DepthToSpace",
    "GlobalWarp",
    "LayerNorm",
    "Mlp",
    "MultiheadConvAttention",
    "SpaceToDepth",
    "Warp",
]
