"""The vision transformer rewritten with amct.nn for the chip; checkpoints of the plain ViT load strictly.

These are all changes:

==================================  ==========================================================
``vit.VisionTransformer``           here
==================================  ==========================================================
tokens ``[N, T, C]``                NCHW: ``[N, C, 1, T]``, from the patches to the classifier
``nn.Linear`` on tokens             1x1 convolutions, in ``amct.nn.Mlp``
``nn.MultiheadAttention``           ``amct.nn.MultiheadConvAttention``
``nn.LayerNorm(C)``                 ``amct.nn.LayerNorm(C, axis=-3)``
``nn.GELU()``                       ``amct.nn.GELU("none")``: the default, tanh, approximates it
``class_token``, ``pos_embedding``  channel first
==================================  ==========================================================

The convolutions and matmuls are quantized directly: no Linear of more than two dimensions is left, whose data the
converter accepts only without offset (HiSilicon's AMCT manual, chapter "Linear layers on more than two dimensions"
[不支持输入大于两维且bias为True的linear量化]), and no tokens are permuted.
"""

import collections
import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from sample.vit.src.vit import LAYER_NORM_EPS, VitSize

StateDict = dict[str, Tensor]


class EncoderBlock(nn.Module):
    """Pre-norm transformer block on NCHW."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.ln_1 = amct.nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS, axis=-3)
        self.self_attention = amct.nn.MultiheadConvAttention(size.dim, size.num_heads)
        self.ln_2 = amct.nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS, axis=-3)
        self.mlp = amct.nn.Mlp(size.dim, size.mlp_dim, act_layer=functools.partial(amct.nn.GELU, "none"))

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``[N, C, 1, T]`` to tokens."""
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y)
        return x + self.mlp(self.ln_2(x))

    def _load_from_state_dict(self, state_dict: StateDict, prefix: str, *args: object) -> None:
        """Renames the weights of ``vit.EncoderBlock`` to the names in this class.

        The modules of amct.nn convert the shapes: they accept a Linear's weight as weight of a 1x1 convolution.
        """
        for kind in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}self_attention.in_proj_{kind}", None)
            if packed is not None:
                for name, part in zip("qkv", packed.chunk(3), strict=True):
                    state_dict[f"{prefix}self_attention.{name}.{kind}"] = part
        _rename(state_dict, f"{prefix}mlp.", {"0": "fc1", "3": "fc2"})
        super()._load_from_state_dict(state_dict, prefix, *args)


class Encoder(nn.Module):
    """Learned positions, blocks, and a last normalization."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(1, size.dim, 1, size.num_tokens))
        blocks = ((f"encoder_layer_{index}", EncoderBlock(size)) for index in range(size.depth))
        self.layers = nn.Sequential(collections.OrderedDict(blocks))
        self.ln = amct.nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS, axis=-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(x + self.pos_embedding))


class ConvVisionTransformer(nn.Module):
    """An encoder on patches and a class token, and a classifier on the class token."""

    def __init__(self, num_classes: int, size: VitSize) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, size.dim, 1, 1))
        self.conv_proj = nn.Conv2d(3, size.dim, size.patch_size, stride=size.patch_size)
        self.encoder = Encoder(size)
        self.heads = nn.Sequential(collections.OrderedDict(head=nn.Linear(size.dim, num_classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``[N, 3, image_size, image_size]`` to logits ``[N, num_classes]``."""
        tokens = self.conv_proj(x).flatten(2).unsqueeze(2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1, -1), tokens], dim=-1)
        return self.heads(self.encoder(tokens)[:, :, 0, 0])

    def _load_from_state_dict(self, state_dict: StateDict, prefix: str, *args: object) -> None:
        """Converts class token and positions of ``vit.VisionTransformer``, ``[1, T, C]``, to channel first."""
        for name in ("class_token", "encoder.pos_embedding"):
            value = state_dict.get(f"{prefix}{name}")
            if value is not None and value.dim() == 3:
                state_dict[f"{prefix}{name}"] = value.transpose(1, 2).unsqueeze(2)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rename(state_dict: StateDict, prefix: str, names: Mapping[str, str]) -> None:
    """Renames those children of a module that ``state_dict`` contains."""
    for old, new in names.items():
        for kind in ("weight", "bias"):
            if (value := state_dict.pop(f"{prefix}{old}.{kind}", None)) is not None:
                state_dict[f"{prefix}{new}.{kind}"] = value
