"""Forward pre-hooks of torch that compute a weight and store it on the module: weight_norm, spectral_norm, prune."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def stored_tensors(model: nn.Module) -> list[Tensor]:
    """Returns the computed tensors that the hooks have stored on modules of ``model``, which cannot be deep-copied."""
    stored = [vars(module).get(str(tensor_of(hook))) for module in model.modules() for hook in tensor_hooks(module)]
    return [one for one in stored if isinstance(one, Tensor)]


def hooked_weight(module: nn.Module) -> Tensor:
    """Returns the weight that the hooks of ``module`` compute from its parameters, differentiable."""
    weight: Any = None
    for hook in weight_hooks(module):
        if isinstance(hook, WeightNorm):
            weight = hook.compute_weight(module)
        elif isinstance(hook, SpectralNorm):
            # The power iteration runs in training forwards only, not when other code reads the weight.
            weight = hook.compute_weight(module, do_power_iteration=module.training and torch.is_grad_enabled())
        else:
            weight = hook.apply_mask(module)
    assert isinstance(weight, Tensor)
    return weight


def weight_hooks(module: nn.Module) -> list[Any]:
    """Returns the hooks of ``module`` that compute its weight."""
    return [hook for hook in tensor_hooks(module) if tensor_of(hook) == "weight"]


def tensor_hooks(module: nn.Module) -> list[Any]:
    """Returns the hooks of ``module`` that compute one of its tensors."""
    return [hook for hook in module._forward_pre_hooks.values() if tensor_of(hook) is not None]


def tensor_of(hook: Any) -> str | None:
    """Returns the name of the tensor that ``hook`` computes, None for any other hook."""
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name
    return hook.name if isinstance(hook, (WeightNorm, SpectralNorm)) else None
