"""Digests of the weights that the float ONNX file of a session holds, to find weights that were changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ....torch_private import BatchNorm
from ...layers.layer_container import LAYERS

_STATISTICS = ("running_mean", "running_var")


def weight_digests(model: nn.Module) -> dict[str, str]:
    """Returns the SHA-256 of each parameter and each BatchNorm's statistics of ``model``, by name.

    Weights that were cast to 16 bits are left out: their values are those of the cast.
    """
    return {name: _digest(tensor) for name, tensor in _weights(model) if tensor.element_size() >= 4}


def changed_weights(model: nn.Module, before: Mapping[str, str], *, updates_batch_norms: bool) -> list[str]:
    """Returns the names of the weights of ``model`` that are not those ``before``.

    ``updates_batch_norms``: whether a save takes the BatchNorms from ``model``, so that they may have changed.
    """
    present = {name for name, _ in _weights(model)}
    gone = [name for name in before if name not in present]  # a parametrization (LoRA, weight_norm) computes the weight
    updated = [f"{name}." for name, one in model.named_modules() if updates_batch_norms and isinstance(one, BatchNorm)]
    changed = [name for name, digest in weight_digests(model).items() if before.get(name, digest) != digest]
    return [*gone, *(name for name in changed if f"{name.rpartition('.')[0]}." not in updated)]


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{LAYERS}."):
            yield name, parameter
    for path, module in model.named_modules():
        if isinstance(module, BatchNorm) and not path.startswith(f"{LAYERS}."):
            yield from ((f"{path}.{name}", one) for name, one in module.named_buffers() if name in _STATISTICS)


def _digest(tensor: Tensor) -> str:
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(values.numpy().data).hexdigest()
