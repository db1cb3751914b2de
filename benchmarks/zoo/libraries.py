"""torchvision and timm beside a torch without GPU, for their model definitions.

torchvision has no such build: its compiled operators do not load, but on import it registers fakes for two of them.
Both have to be declared before, by whoever imports it; import the libraries from here.
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
