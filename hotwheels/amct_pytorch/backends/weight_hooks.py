"""Forward pre-hooks of torch that compute a weight and store it on the module: weight_norm, spectral_norm, prune."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def stored_weights(model: nn.Module) -> list[Tensor]:
    """Returns what the hooks have left on the modules of ``model``: computed tensors, which cannot be copied."""
    stored = [vars(module).get("weight") for module in model.modules() if weight_hooks(module)]
    return [weight for weight in stored if isinstance(weight, Tensor)]


def hooked_weight(module: nn.Module) -> Tensor:
    """Returns the weight that the hooks of ``module`` compute from its parameters, differentiable."""
    weight: Any = None
    for hook in weight_hooks(module):
        if isinstance(hook, WeightNorm):
            weight = hook.compute_weight(module)
        elif isinstance(hook, SpectralNorm):
            # The vectors are iterated in the forwards that train, not where somebody else looks at the weight.
            weight = hook.compute_weight(module, do_power_iteration=module.training and torch.is_grad_enabled())
        else:
            weight = hook.apply_mask(module)
    assert isinstance(weight, Tensor)
    return weight


def weight_hooks(module: nn.Module) -> list[Any]:
    """Returns the hooks of ``module`` that compute its weight."""
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if _target(hook) == "weight"]


def _target(hook: Any) -> str | None:
    """The name of the tensor that ``hook`` computes, None for any other hook."""
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name
    return hook.name if isinstance(hook, (WeightNorm, SpectralNorm)) else None
