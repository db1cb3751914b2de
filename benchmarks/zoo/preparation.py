"""Gives an untrained network the ranges, statistics and inputs of a trained network, as far as quantization needs them.

An untrained BatchNorm does not scale its input, and branches often start with scales of 0 or 1e-6 and biases of 0: half
of the tensors would be constant, and a signal to noise ratio would be meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the libraries' models expect


def images(count: int, size: int | tuple[int, int], seed: int) -> Tensor:
    """Returns ``[count, 3, height, width]``: crops of scikit-learn's two photographs at several scales, normalised."""
    height, width = (size, size) if isinstance(size, int) else size
    random = np.random.default_rng(seed)
    return torch.cat([_crop(_photographs()[at % 2], height, width, random) for at in range(count)])


def prepare(model: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """Returns ``model``, changed in place, in eval mode, without constant parameters, with BatchNorm statistics."""
    for name, parameter in model.named_parameters():
        _draw(name, parameter.data)
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    return model


def _draw(name: str, values: Tensor) -> None:
    """Replaces values that are all equal: scales by 0.5 to 1.5, biases by small values."""
    if values.numel() < 2 or bool((values != values.flatten()[0]).any()):
        return
    if name.endswith(("bias", "beta", "_b")):
        values.normal_(std=0.1)
    else:
        values.uniform_(0.5, 1.5)


@cache
def _photographs() -> tuple[Tensor, ...]:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    photographs = (torch.from_numpy(np.array(one)).permute(2, 0, 1)[None] / 255 for one in load_sample_images().images)
    return tuple((one - mean) / std for one in photographs)


def _crop(photograph: Tensor, height: int, width: int, random: np.random.Generator) -> Tensor:
    limit = min(photograph.shape[2] / height, photograph.shape[3] / width)
    scale = math.exp(random.uniform(0.0, math.log(limit)))
    tall, wide = int(height * scale), int(width * scale)
    top = int(random.integers(0, photograph.shape[2] - tall + 1))
    left = int(random.integers(0, photograph.shape[3] - wide + 1))
    part = photograph[:, :, top : top + tall, left : left + wide]
    return F.interpolate(part, (height, width), mode="bilinear", antialias=True)
