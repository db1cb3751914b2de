"""The Evaluator returns the result of a BatchNorm by its size: what torch computes for it on fake tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.trace.guided import evaluation
from hotwheels.amct_pytorch.backends.fx.trace.guided.evaluation import Evaluator

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: torch.randn(2, 4, 6, 6),
    "channels last": lambda: torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last),
    "gaps": lambda: torch.randn(2, 6, 6, 4).permute(0, 3, 1, 2)[:, :, ::2],
    "rows": lambda: torch.randn(3, 4),
    "turned": lambda: torch.randn(5, 4, 3).transpose(0, 2),
    "half": lambda: torch.randn(2, 4, 6, 6).half(),
}


def form(x: Tensor) -> tuple:
    return x.shape, x.stride(), x.dtype, x.device


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_has_the_form_that_torch_gives_it(layout, is_training, monkeypatch):
    x = LAYOUTS[layout]()
    mean, var = torch.zeros(4), torch.ones(4)

    def evaluated() -> tuple:
        evaluator = Evaluator()
        result = evaluator.call(F.batch_norm, (evaluator.fake(x), mean, var, var, mean, is_training), {})
        return form(result.value), len(result.written)

    ours = evaluated()
    monkeypatch.setattr(evaluation, "BatchNorm", ())
    monkeypatch.setattr(evaluation, "_NormsBySize", torch.no_grad)
    assert ours == evaluated()


def test_wrong_channels_are_refused_as_torch_does():
    evaluator = Evaluator()
    x = evaluator.fake(torch.randn(2, 4, 6, 6))
    with pytest.raises(RuntimeError, match="should contain 4 elements not 5"):
        evaluator.call(nn.BatchNorm2d(5).eval(), (x,), {})
