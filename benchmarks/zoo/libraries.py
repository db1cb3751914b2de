"""torchvision and timm with a CPU build of torch, for their model definitions.

torchvision has no such build: its compiled operators do not load, but its import registers fake implementations of two
of them. Both operators must be declared before that; so import the libraries from this module.
"""

from __future__ import annotations

import torch

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402

__all__ = ["timm", "torchvision"]
