"""Small models with attention: torch's Transformers, torchvision's ViT, masks; and with recurrent modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry

BATCH, QUERIES, KEYS, WIDTH, HEADS = 3, 4, 5, 8, 2


def traced(model: nn.Module) -> torch.fx.GraphModule:
    return FxBackend(model, Registry()).traced


def randomize(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():  # torch starts biases at zero
            parameter.copy_(0.4 * torch.randn_like(parameter))


def assert_same(left: Any, right: Any) -> None:
    left, right = (one if isinstance(one, tuple) else (one,) for one in (left, right))
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


class Stack(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, **settings)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.fc = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(x)) + 1


class Pair(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 2, 12, batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(x, x[:, :2] * 2, tgt_mask=nn.Transformer.generate_square_subsequent_mask(2))


class Encoder(nn.Module):
    """A block of torchvision's ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.ln_2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, WIDTH))

    def forward(self, input: Tensor) -> Tensor:
        torch._assert(input.dim() == 3, f"Expected (batch_size, seq_length, hidden_dim) got {input.shape}")
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x) + input
        return x + self.mlp(self.ln_2(x))


class Vit(nn.Module):
    """torchvision's vit_b_16, small: patches, class token, position embedding, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, WIDTH, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embedding = nn.Parameter(torch.randn(1, 17, WIDTH) * 0.02)
        self.layers = nn.Sequential(Encoder(), Encoder())
        self.ln = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        torch._assert(h == 16, "Wrong image height")
        x = self.conv_proj(x).reshape(n, WIDTH, (h // 4) * (w // 4)).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(n, -1, -1), x], dim=1) + self.pos_embedding
        return self.head(self.ln(self.layers(x))[:, 0])


class Optional(nn.Module):
    """Takes masks, which a call need not give, as timm's ViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        y = self.attn(x, x, x, attn_mask=mask, need_weights=False)[0]
        return F.scaled_dot_product_attention(y, y, x, is_causal=is_causal)


def sequences() -> Tensor:
    return torch.randn(BATCH, QUERIES, WIDTH)


class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1)
        self.register_buffer("mask", torch.ones(BATCH, BATCH, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        y, weights = self.attn(x, x, x, attn_mask=self.mask)
        return F.scaled_dot_product_attention(y, y, y, is_causal=True, dropout_p=0.1 if self.training else 0.0), weights


class Recurrent(nn.Module):
    def __init__(self, cls: type) -> None:
        super().__init__()
        self.rnn = cls(WIDTH, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x * 2)
        return self.fc(y).relu()


NETS: dict[str, Callable[[], nn.Module]] = {
    "vit": Vit,
    "encoder": lambda: Stack(norm_first=True, activation="gelu", batch_first=True),
    "transformer": lambda: Pair(norm_first=False),
    "masked": Causal,
    "optional masks": Optional,
}
RECURRENT = {"LSTM": lambda: Recurrent(nn.LSTM), "GRU": lambda: Recurrent(nn.GRU)}


def data(name: str) -> Tensor:
    return torch.randn(BATCH, 3, 16, 16) if name == "vit" else sequences()


def first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result
