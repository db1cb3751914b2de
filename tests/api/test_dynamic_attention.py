"""nn.MultiheadAttention on the dynamic path: its projections are layers, its results those of torch."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.dynamic.attention import place_attention
from tests.support import fx_path
from tests.support.dynamic_path import calibrated, check_training, run
from tests.support.exact_dynamic import assert_exact, layers_of
from tests.support.fixtures import one_thread, seeded

__all__ = ["one_thread", "seeded"]

WIDTH, HEADS = 8, 2
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def tokens(seed: int) -> Tensor:
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("is_batched", [True, False])
def test_results_are_those_of_torch(batch_first: bool, is_batched: bool) -> None:
    for kdim, average, has_mask, per_head in itertools.product((None, 6), (True, False), (True, False), (True, False)):
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, kdim=kdim, bias=average).eval()
        batch = (3,) if is_batched else ()
        inputs = [torch.randn(*batch, n, w) for n, w in ((5, WIDTH), (4, kdim or WIDTH), (4, WIDTH))]
        if is_batched and not batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        padding = torch.zeros(*batch, 4, dtype=torch.bool)
        padding[..., -1] = True
        mask = torch.rand(HEADS * (3 if is_batched else 1) if per_head else 1, 5, 4) > 0.7
        mask[..., 0] = False
        masks = {"attn_mask": mask if per_head else mask[0], "key_padding_mask": padding} if has_mask else {}
        placed = copy.deepcopy(attention)
        place_attention(placed)
        assert placed.state_dict().keys() == attention.state_dict().keys()
        expected = attention(*inputs, average_attn_weights=average, **masks)
        for found, one in zip(placed(*inputs, average_attn_weights=average, **masks), expected, strict=True):
            torch.testing.assert_close(found, one)
        assert placed(*inputs, need_weights=False, **masks)[1] is None


def test_encoder_is_on_integers(tmp_path: Path) -> None:
    model = Encoder().eval()
    quantized, files = calibrated(model, tmp_path, [(tokens(1),)])
    attention = {f"encoder.layers.{at}.self_attn.{name}" for at in range(2) for name in PROJECTIONS}
    assert attention <= layers_of(quantized).keys()
    files.save(quantized)
    x = tokens(2)
    (found,) = fx_path.run_onnx(files.fake_quant, x)
    torch.testing.assert_close(torch.from_numpy(found), run(quantized, x), rtol=1e-4, atol=1e-5)
    assert_exact(quantized, files, x)


def test_training_reaches_the_packed_parameter(tmp_path: Path) -> None:
    def packed(model: nn.Module) -> nn.Parameter:
        return model.encoder.layers[0].self_attn.in_proj_weight

    quantized = check_training(Encoder, tokens, tmp_path, packed)
    assert (packed(quantized).grad.unflatten(0, (3, WIDTH)).abs().amax((1, 2)) > 0).all()
