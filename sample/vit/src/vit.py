"""Vision transformer with torchvision's module names, so that torchvision's checkpoints load unchanged."""

import collections
import dataclasses

import torch
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class VitSize:
    """The sizes of a vision transformer (Dosovitskiy et al., 2020).

    Attributes:
      image_size: Edge of the square input, pixels.
      patch_size: Edge of a patch; divides ``image_size``.
      dim: Channels of a token.
      depth: Number of encoder blocks.
      num_heads: Heads of each attention; divides ``dim``.
      mlp_dim: Channels between the two layers of a block's MLP.
    """

    image_size: int
    patch_size: int
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int

    @property
    def num_tokens(self) -> int:
        """The class token and one token per patch."""
        return 1 + (self.image_size // self.patch_size) ** 2


VIT_B_16 = VitSize(image_size=224, patch_size=16, dim=768, depth=12, num_heads=12, mlp_dim=3072)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS)
        self.self_attention = nn.MultiheadAttention(size.dim, size.num_heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(size.dim, size.mlp_dim),
            nn.GELU(),
            nn.Dropout(0.0),  # as in torchvision, so that the second Linear has the same index
            nn.Linear(size.mlp_dim, size.dim),
            nn.Dropout(0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``[N, T, dim]`` to tokens."""
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Learned positions, blocks, and a last normalization."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, size.num_tokens, size.dim))
        blocks = ((f"encoder_layer_{index}", EncoderBlock(size)) for index in range(size.depth))
        self.layers = nn.Sequential(collections.OrderedDict(blocks))
        self.ln = nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(x + self.pos_embedding))


class VisionTransformer(nn.Module):
    """An encoder on patches and a class token, and a classifier on the class token."""

    def __init__(self, num_classes: int, size: VitSize) -> None:
        super().__init__()
        self.size = size
        self.class_token = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.conv_proj = nn.Conv2d(3, size.dim, size.patch_size, stride=size.patch_size)
        self.encoder = Encoder(size)
        self.heads = nn.Sequential(collections.OrderedDict(head=nn.Linear(size.dim, num_classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``[N, 3, image_size, image_size]`` to logits ``[N, num_classes]``."""
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        return self.heads(self.encoder(tokens)[:, 0])


def vit_b_16(num_classes: int = 1000) -> VisionTransformer:
    """Returns torchvision's ViT-B/16."""
    return VisionTransformer(num_classes, VIT_B_16)
