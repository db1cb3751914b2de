"""Calls of torch that were left to torch's exporter: norms, distances, ranks, windows, scatters, recurrent networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.call_cases import CallCase

_G = torch.Generator().manual_seed(7)
X = torch.randn(2, 4, 8, 8, generator=_G)
TIED = (X * 2).round()
P = X.abs() + 0.1
T = torch.randn(2, 5, 16, generator=_G)
M = torch.randn(4, 4, generator=_G)
PLACES = torch.randint(0, 4, (2, 4, 8, 8), generator=_G)
GRID = torch.rand(2, 5, 6, 2, generator=_G) * 2.4 - 1.2
GAPPY = torch.where(X > 0.5, float("nan"), X)
INFINITE = float("inf")


def _of(name: str, call: Callable[..., Any], *inputs: Tensor, opset: int = 13) -> CallCase:
    return CallCase(name, call, inputs or (X,), opset)


def _changed(change: Callable[[Tensor], None]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        x = x.clone()
        change(x)
        return x

    return call


def _add_to_place(x: Tensor) -> None:
    x[..., 0] += 1
    x[:, 1:3] *= x[:, 3:]


def _put(x: Tensor) -> None:
    x[torch.tensor([0, 1]), torch.tensor([2, 3])] = 1.5


NORMS = [
    *(
        _of(f"norm {p}", lambda x, p=p: (torch.linalg.vector_norm(x, p, dim=1), x.norm(p, (1, 2), True)))
        for p in (0, 1, 2, 3, 0.5, INFINITE, -INFINITE)
    ),
    _of("norm of all", lambda x: (x.norm(), torch.linalg.norm(x), x.norm(1), torch.norm(x, dim=-1, keepdim=True))),
    _of("matrix norm", lambda x: (torch.linalg.matrix_norm(x), torch.linalg.norm(x, dim=(2, 3), keepdim=True))),
    _of("norm as float64", lambda x: torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)),
    _of("normalize", lambda x: (F.normalize(x, 3.0), F.normalize(x, INFINITE, 2), F.normalize(x * 0, 1))),
    *(
        _of(f"cdist {p}", lambda t, p=p: torch.cdist(t, t.flip(1)[:, :3] * 2, p=p), T)
        for p in (0.0, 1.0, 2.0, 3.0, INFINITE)
    ),
    _of("cdist broadcasts", lambda t: torch.cdist(t.unsqueeze(1), t.unsqueeze(0)), T),
    _of("cdist by a product", lambda t: torch.cdist(t, t + 1, compute_mode="use_mm_for_euclid_dist"), T),
    _of("pairwise_distance", lambda x: (F.pairwise_distance(x, x.flip(1)), F.pairwise_distance(x, P, 1, keepdim=True))),
    _of("cosine_similarity", lambda x: (F.cosine_similarity(x, P), torch.cosine_similarity(x, x[:1], -1))),
    _of("cosine of all pairs", lambda x: F.cosine_similarity(x[:, :, None], x[:, None], dim=-1)),
    _of("dist", lambda x: (torch.dist(x, P), torch.dist(x, P, 1))),
    _of("lp_pool", lambda x: (F.lp_pool2d(x, 2, 2), F.lp_pool2d(x.abs(), 3, (3, 2), 2, True))),
    _of("lp_pool1d", lambda t: F.lp_pool1d(t, 2, 3), T),
    _of("local_response_norm", lambda x: (F.local_response_norm(x, 3), F.local_response_norm(x, 5, 0.1, 0.5, 2))),
    _of("batch_norm of the batch", lambda x: F.batch_norm(x, None, None, P[0, :, 0, 0], X[0, :, 0, 0], training=True)),
]

RANKS = [
    *(
        _of(f"quantile {kind}", lambda x, kind=kind: torch.quantile(x, 0.4, dim=2, interpolation=kind))
        for kind in ("linear", "lower", "higher", "nearest", "midpoint")
    ),
    _of("quantile of all", lambda x: (torch.quantile(x, 0.25), torch.quantile(x, 1.0, keepdim=True))),
    _of("quantiles", lambda x: torch.quantile(x, torch.tensor([0.0, 0.1, 0.6]), dim=-1, keepdim=True)),
    _of("quantile of nan", lambda x: torch.quantile(x, 0.5, dim=1), GAPPY),
    _of("nanmedian", lambda x: (x.nanmedian(), *torch.nanmedian(x, 2), torch.nanmedian(x, 1, True)[0]), GAPPY),
    _of("nanmean", lambda x: (x.nanmean(), torch.nanmean(x, (2, 3), keepdim=True)), GAPPY),
    _of("mode", lambda x: (torch.mode(x, 1)[0], torch.mode(x, -1, True)[0]), TIED),
    _of("logcumsumexp", lambda x: (x.logcumsumexp(1), torch.logcumsumexp(x * 30, -1))),
    _of("isin", lambda x: (torch.isin(x, torch.tensor([1.0, -2.0])), torch.isin(x, P, invert=True)), TIED),
    _of("max of booleans", lambda x: (*(x > 0).max(1), *(x > 0).min(2, keepdim=True), (x > 9).max())),
]

ELEMENTS = [
    _of("logit", lambda x: (torch.logit(x.sigmoid()), torch.logit(x, 1e-3))),
    _of("sinc", lambda x: torch.sinc(x * torch.tensor([0.0, 1.0, 1.0, 0.5]).view(-1, 1, 1))),
    _of("logarithms", lambda x: (torch.log2(x), torch.log10(x)), P),
    _of("round to decimals", lambda x: (x.round(decimals=2), torch.round(x * 50, decimals=-1))),
    _of("sgn", lambda x: (torch.sgn(x), torch.ldexp(x, torch.tensor(3)), torch.special.ndtr(x))),
    _of("trapezoid", lambda x: (torch.trapezoid(x, dim=1), torch.cumulative_trapezoid(x, dx=0.5, dim=2))),
]

WINDOWS = [
    _of("unfold", lambda x: (F.unfold(x, 3, padding=1), F.unfold(x, (3, 2), (2, 1), (1, 0), (2, 3)))),
    _of("unfold of one image", lambda x: F.unfold(x[0], 2, stride=2)),
    _of("fold side by side", lambda x: F.fold(x.flatten(2)[:, :, :16], (8, 8), 2, stride=2)),
    _of("fold", lambda x: F.fold(F.unfold(x, 3, padding=1), 8, 3, padding=1)),
    _of("fold with gaps", lambda x: F.fold(F.unfold(x, (3, 2), 2, 1, (2, 3)), (8, 8), (3, 2), 2, 1, (2, 3))),
    _of("max_unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    _of("max_unpool to a size", lambda x: F.max_unpool2d(*F.max_pool2d(x, 3, 2, return_indices=True), 3, 2, 0, (8, 8))),
    _of("affine_grid", lambda x: (F.affine_grid(x[:, 0, :2, :3], (2, 4, 5, 6), False), _grid(x, True))),
    *(
        _of(f"grid_sample {mode}", lambda x, mode=mode: _samples(x, mode), opset=16)
        for mode in ("bilinear", "nearest", "bicubic")
    ),
]


def _grid(x: Tensor, align_corners: bool) -> Tensor:
    return F.affine_grid(x[:, 0, :2, :3], [2, 4, 1, 6], align_corners)


def _samples(x: Tensor, mode: str) -> tuple[Tensor, ...]:
    kinds = [(padding, is_aligned) for padding in ("zeros", "border", "reflection") for is_aligned in (True, False)]
    return tuple(F.grid_sample(x, GRID, mode, padding, is_aligned) for padding, is_aligned in kinds)


MATRICES = [
    _of("diag", lambda m: (torch.diag(m[0]), torch.diag(m, 1), torch.diag(m[0], -2), torch.diag_embed(m, 1)), M),
    _of("block_diag", lambda m: (torch.block_diag(m, m[:2] * 2), torch.kron(m, m[:2]), m.matrix_power(3)), M),
    _of("cov", lambda m: (torch.cov(m), torch.cov(m, correction=0), torch.addr(m, m[0], m[1], beta=2)), M),
    _of("cross", lambda x: (torch.cross(x[:, :3], x[:, 1:], dim=1), torch.linalg.cross(x[..., :3], x[..., 2:5]))),
    _of("meshgrid", lambda m: (*torch.meshgrid(m[0], m[1, :3]), *torch.meshgrid(m[0], m[1, :3], indexing="xy")), M),
    _of("broadcast_tensors", lambda x: torch.broadcast_tensors(x, x[:1, :, :1])),
    _of("take", lambda x: (torch.take(x, torch.tensor([[0, 5], [-1, 7]])), torch.atleast_3d(x[0, 0]))),
]

PLACED = [
    _of("scatter", lambda x: (torch.zeros_like(x).scatter(1, x.argsort(1), x), x.scatter(1, PLACES[:, :1], 2.0))),
    _of("scatter of a part", lambda x: x.scatter(2, x[:, :3].argsort(2)[:, :, :5], P + x)),
    _of("scatter that adds", lambda x: x.scatter(1, PLACES, P, reduce="add"), opset=16),
    _of("scatter that multiplies", lambda x: x.scatter(1, PLACES, P, reduce="multiply"), opset=16),
    *(
        _of(
            f"scatter_reduce {kind}",
            lambda x, kind=kind: (
                x.scatter_reduce(1, PLACES[:, :3], x * 2, kind),
                x.scatter_reduce(1, PLACES[:, :3], x * 2, kind, include_self=False),
            ),
            opset=18 if kind.startswith("a") else 16,
        )
        for kind in ("sum", "prod", "mean", "amax", "amin")
    ),
    _of("index_copy", lambda x: x.index_copy(1, torch.tensor([3, 0]), x[:, :2])),
    _of(
        "index_fill",
        lambda x: (x.index_fill(1, torch.tensor([3, 0]), 1.5), x.index_fill(-1, x[0, 0, 0].argmax()[None], 0)),
    ),
    _of("index_put", lambda x: x.index_put((torch.tensor([0, -1]), torch.tensor([1, 2])), x[0, 2] * 3)),
    _of("index_put by data", lambda x: x.index_put((x[:, 0, 0, 0].argsort(), x[:, 1, 0, 0].argsort()), x[:, 3])),
    _of("several indices of data", lambda x: x[torch.arange(2)[:, None], x.mean((2, 3)).argsort(1)]),
    _of("indices of data apart", lambda x: x[x[:, 0, 0, 0].argsort(), :, x[:, 1, 0, 0].argsort()]),
    _of("places of data", lambda x: x[x[:, 0, 0, 0].argmax(), x[0, :, 0, 0].argmax()]),
    _of("one_hot", lambda x: (F.one_hot(x.argmax(1), 4), F.one_hot((x.abs() * 2).long().clamp(max=6), 7))),
    _of("item changed in place", _changed(_add_to_place)),
    _of("item of several indices", _changed(_put)),
]


def _recurrent(kind: type[nn.Module], **settings: Any) -> CallCase:
    torch.manual_seed(0)
    module: nn.Module = kind(16, 6, **settings).eval()
    return _of(f"{kind.__name__} {settings}", module, T)


def _from_states(kind: type[nn.Module], count: int) -> CallCase:
    torch.manual_seed(0)
    module: nn.Module = kind(16, 6, num_layers=2, bidirectional=True, batch_first=True).eval()

    def call(x: Tensor) -> Any:
        states = tuple(x[:1, :4, at : at + 6].reshape(4, 1, 6).expand(4, 2, 6) for at in range(count))
        return module(x, states if count > 1 else states[0])

    return _of(f"{kind.__name__} from states", call, T)


def _cell(kind: type[nn.Module], **settings: Any) -> CallCase:
    torch.manual_seed(0)
    module: nn.Module = kind(16, 6, **settings).eval()
    return _of(f"{kind.__name__} {settings}", lambda t: module(t[0]), T)


RECURRENT = [
    *(
        _recurrent(kind, **settings)
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for settings in (
            {},
            {"batch_first": True, "bidirectional": True},
            {"num_layers": 2, "batch_first": True, "dropout": 0.1},
            {"num_layers": 2, "bidirectional": True, "bias": False},
        )
    ),
    _recurrent(nn.RNN, nonlinearity="relu", bidirectional=True),
    _from_states(nn.LSTM, 2),
    _from_states(nn.GRU, 1),
    _cell(nn.LSTMCell),
    _cell(nn.GRUCell),
    _cell(nn.RNNCell),
    _cell(nn.RNNCell, nonlinearity="relu", bias=False),
]

FORM_CASES = (*NORMS, *RANKS, *ELEMENTS, *WINDOWS, *MATRICES, *PLACED, *RECURRENT)
