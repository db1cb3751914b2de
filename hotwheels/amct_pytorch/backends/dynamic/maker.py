"""Records which module made a tensor, as long as the tensor is not changed in place.

An activation module that is called several times may belong to the convolution in front in one call, but not in another
(torchvision's ResNet has one ReLU per block). The tensor tells which call it is. Calls cannot be counted instead, since
control flow may depend on data, and checkpointing runs calls again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...torch_private import without_torch_function

_MAKER = "_amct_maker"


def made_by(path: str, result: Any) -> Any:
    """Returns ``result``, noted as made by the module ``path`` if it is a tensor; a copy of an inference tensor."""
    if not isinstance(result, Tensor):
        return result
    with without_torch_function():
        if result.is_inference():  # inference tensors have no version counter
            with torch.inference_mode(False):
                result = result.clone()
        setattr(result, _MAKER, (path, result._version))
    return result


def maker_of(x: Any) -> str | None:
    """Returns the path of the module that made ``x``; None if not recorded, or ``x`` was changed in place since."""
    path, version = getattr(x, _MAKER, (None, None)) if isinstance(x, Tensor) else (None, None)
    if path is None:
        return None
    with without_torch_function():
        return path if not x.is_inference() and x._version == version else None
