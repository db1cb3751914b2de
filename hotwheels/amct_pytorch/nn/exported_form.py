"""Functions whose exported ONNX nodes compute other values than torch: real_quant computes those of the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .call import MethodCall
from .smooth_resize import smoothly_resized


def _single(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


SOFTPLUS_THRESHOLD = 15.0  # above it softplus(x) - x is less than half a bit of a float32 x
# Constants of the Gaussian error linear unit and its approximation (Hendrycks & Gimpel, 2016).
_ROOT_2, _ROOT_2_BY_PI, _KAPPA = _single(math.sqrt(2.0)), _single(math.sqrt(2.0 / math.pi)), _single(0.044715)


def as_exported(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function with the values of the exported nodes; ``function`` itself if torch's values are the same."""
    if isinstance(function, nn.Module):
        return _module_form(function)
    return _FUNCTIONS.get(function, function)


def _module_form(module: nn.Module) -> Callable[..., Any]:
    if type(module) is nn.LogSigmoid:
        return _log_sigmoid
    if type(module) is nn.Softplus:
        return lambda x: _softplus(x, module.beta, module.threshold)
    if type(module) is nn.GELU:
        return lambda x: _gelu(x, module.approximate)
    if type(module) is nn.RMSNorm and module.eps is None:
        return lambda x: _rms_norm(x, module.normalized_shape, module.weight)
    return module


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """GELU with float32 constants, as the file holds them, whether it is exported as one node or as several."""
    if approximate == "tanh":
        inner = _ROOT_2_BY_PI * (input + _KAPPA * (input * input * input))
        return 0.5 * (input * (1.0 + torch.tanh(inner)))
    return input * (torch.erf(input / _ROOT_2) + 1.0) * 0.5


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """RMSNorm; the default of ``eps`` is float32's epsilon, as in the file and in the float model, not float64's."""
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return F.rms_norm(input, tuple(normalized_shape), None if weight is None else weight.to(input.dtype), eps)


def _log_sigmoid(input: Tensor) -> Tensor:
    """LogSigmoid, exported as the three nodes Neg, Softplus and Neg."""
    return -torch.logaddexp(-input, _zero(input))


def _softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Softplus; ONNX's Softplus has no ``threshold`` above which it returns its input, so a low one becomes a Where."""
    result = torch.logaddexp(input * beta, _zero(input)) / beta
    return result if threshold >= SOFTPLUS_THRESHOLD else torch.where(input * beta > threshold, input, result)


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=like.dtype, device=like.device)


def _view(input: Tensor, *shape: Any, **kwargs: Any) -> Tensor:
    """Exported as Reshape, so it must work on non-contiguous tensors too."""
    is_shape = not kwargs and not isinstance(shape[0], torch.dtype)
    return input.reshape(*shape) if is_shape else input.view(*shape, **kwargs)


def _view_as(input: Tensor, other: Tensor) -> Tensor:
    return input.reshape(other.shape)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.gelu: _gelu,
    F.interpolate: smoothly_resized,
    F.logsigmoid: _log_sigmoid,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.softplus: _softplus,
    MethodCall("view"): _view,
    MethodCall("view_as"): _view_as,
}
