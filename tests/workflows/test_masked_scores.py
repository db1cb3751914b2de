"""Masks in front of a softmax, in every spelling: what they fill stays in float; files, oracle and torch agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from tests.support.whole_way import PATHS, take

_TOKENS = 6
_SMALLEST = torch.finfo(torch.float32).min


class _Attention(nn.Module):
    def __init__(self, mask: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.product, self.sum, self.mix = amct.MatMul(), amct.EltwiseAdd(), amct.MatMul()
        self.softmax, self.same = nn.Softmax(-1), nn.Identity()
        self.register_buffer("hidden", torch.triu(torch.ones(_TOKENS, _TOKENS), 1).bool())
        self.register_buffer("scores", torch.zeros(_TOKENS, _TOKENS).masked_fill(self.hidden, -math.inf))
        self._mask = mask

    def forward(self, x: Tensor) -> Tensor:
        scores = self.product(self.q(x), self.k(x).transpose(-2, -1)) * 0.3
        return self.o(self.mix(self.softmax(self._mask(self, scores)), self.v(x)))


def _by_item(net: Any, scores: Tensor) -> Tensor:
    scores = scores.clone()
    scores[:, net.hidden] = -math.inf
    return scores


_MASKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "added": lambda net, x: x + net.scores,
    "added to": lambda net, x: net.scores + x,
    "added by a module": lambda net, x: net.sum(x, net.scores.expand_as(x)),
    "added in place": lambda net, x: x.add_(net.scores),
    "subtracted": lambda net, x: x - torch.zeros(_TOKENS, _TOKENS).masked_fill(net.hidden, math.inf),
    "filled": lambda net, x: x.masked_fill(net.hidden, -math.inf),
    "where": lambda net, x: torch.where(net.hidden, -math.inf, x),
    "item": _by_item,
    "smallest": lambda net, x: x + net.hidden.float() * _SMALLEST,
    "-1e4": lambda net, x: x + (1.0 - (~net.hidden).float()) * -10000.0,
    "part": lambda net, x: x + net.scores[: x.shape[1], : x.shape[2]],
    "views": lambda net, x: (x.view(-1, 1, _TOKENS, _TOKENS) + net.scores).view(-1, _TOKENS, _TOKENS),
    "identity": lambda net, x: net.same(x + net.scores),
    "then scaled": lambda net, x: (x + net.scores) * 0.5,
    "made in the forward": lambda net, x: x + torch.triu(torch.full((_TOKENS, _TOKENS), -math.inf), 1),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", _MASKS)
def test_softmax_behind_a_mask_stays_in_float(name: str, path: str, tmp_path: Path) -> None:
    model = _Attention(_MASKS[name]).eval()
    calls = [(torch.randn(count, _TOKENS, 8),) for count in (2, 5)]
    take(model, calls, path, tmp_path, {"x": {0: "n"}})
    assert "softmax" not in _layers_that_are_on(tmp_path)
    assert "mix" in _layers_that_are_on(tmp_path)


@pytest.mark.parametrize("path", PATHS)
def test_small_constants_are_no_masks(path: str, tmp_path: Path) -> None:
    model = _Attention(lambda net, x: x + net.hidden.float() * -100.0).eval()
    take(model, [(torch.randn(2, _TOKENS, 8),)], path, tmp_path)
    assert "softmax" in _layers_that_are_on(tmp_path)


class _MaskIsInput(_Attention):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        scores = self.product(self.q(x), self.k(x).transpose(-2, -1)) * 0.3
        scores = scores + (1.0 - mask[:, None].float()) * _SMALLEST
        return self.o(self.mix(self.softmax(scores), self.v(x)))


@pytest.mark.parametrize("path", PATHS)
def test_mask_among_the_inputs(path: str, tmp_path: Path) -> None:
    calls = []
    for count in (2, 5):
        mask = torch.ones(count, _TOKENS)
        mask[:, -2:] = 0
        calls.append((torch.randn(count, _TOKENS, 8), mask))
    take(_MaskIsInput(lambda _, x: x).eval(), calls, path, tmp_path, {"x": {0: "n"}, "mask": {0: "n"}})
    assert "softmax" not in _layers_that_are_on(tmp_path)


def _layers_that_are_on(folder: Path) -> set[str]:
    document = read_json(folder / "config.json")
    return {name for name, one in document.items() if isinstance(one, dict) and one.get("quant_enable")}


def test_parameter_that_is_added_is_looked_at(tmp_path: Path) -> None:
    model = _Attention(lambda net, x: x + net.bias).eval()
    model.bias = nn.Parameter(torch.randn(_TOKENS, _TOKENS))
    take(model, [(torch.randn(2, _TOKENS, 8),)], "fx", tmp_path)
    assert "softmax" in _layers_that_are_on(tmp_path)
