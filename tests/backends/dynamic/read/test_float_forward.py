"""FloatForward uses the outputs of the user's own forward that are known already, and computes them where it must."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.dynamic.backend import DynamicBackend


class Counted(nn.Module):
    """Counts its forwards, outside of its state, which copies share."""

    forwards: list[int]

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        Counted.forwards.append(len(x))
        y = self.inside(x)
        return y, y.sum(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


CASES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "own forwards": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Dropout()), True),
    "another forward of an attention": (Attention, False),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_users_forward(case):
    make, is_known = CASES[case]
    torch.manual_seed(0)
    model, x = Counted(make()).eval(), torch.randn(2, 4, 8)
    Counted.forwards = []
    backend = DynamicBackend(model, (x,))
    reference = backend.float_forward(backend.folds(backend.graph()))
    before = len(Counted.forwards)
    found = reference.outputs()
    assert (len(Counted.forwards) == before) is is_known
    for ours, theirs in zip(found, model(x), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    if is_known:
        assert all(np.array_equal(*pair) for pair in zip(found, reference._run(lambda one: one.clone()), strict=True))


def test_other_sizes_are_computed():
    model, x = Counted(nn.Linear(8, 3)).eval(), torch.randn(2, 8)
    Counted.forwards = []
    backend = DynamicBackend(model, (x,))
    reference = backend.float_forward(backend.folds(backend.graph())).resized({(0, 0): 5})
    assert [one.shape for one in reference.outputs()] == [(5, 3), (5,)]
    assert Counted.forwards[-1] == 5
