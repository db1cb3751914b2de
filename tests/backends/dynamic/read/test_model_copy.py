"""A copy of a model runs no code of the original's objects."""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.dynamic.read.model_copy import copy_model

X = torch.ones(1, 2)


def modules_called(model: nn.Module) -> set[nn.Module]:
    called: set[nn.Module] = set()
    handles = [one.register_forward_pre_hook(lambda module, _: called.add(module)) for one in model.modules()]
    model(X)
    for handle in handles:
        handle.remove()
    return called


def test_lambda_on_a_module_calls_the_copies() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first, method = model[0], model[1].forward
    model[1].forward = lambda x: method(first(x))
    copied = copy_model(model)
    assert modules_called(copied) == set(copied.modules())
    assert modules_called(model) == set(model.modules())
    assert torch.equal(copied(X), model(X))


def test_bound_method_calls_the_copy() -> None:
    def doubled(self: nn.Linear, x: Tensor) -> Tensor:
        return 2 * nn.functional.linear(x, self.weight, self.bias)

    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = types.MethodType(doubled, model[0])
    copied = copy_model(model)
    with torch.no_grad():
        copied[0].weight.zero_()
        copied[0].bias.zero_()
    assert torch.equal(copied(X), torch.zeros(1, 2))
    assert not torch.equal(model(X), torch.zeros(1, 2))


def test_function_without_the_model_is_kept() -> None:
    factor = 3.0
    model = nn.Sequential(nn.Identity())
    model[0].forward = lambda x: factor * x
    assert torch.equal(copy_model(model)(X), 3 * X)
