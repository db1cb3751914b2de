"""Which module made a tensor, as long as the tensor was not changed in place.

An activation that is called several times may stand behind a convolution in one call, which it then belongs to, and
behind something else in another (torchvision's ResNet has one ReLU per block). Which call it is can be told by the
tensor alone: calls cannot be counted where control flow depends on data, or where a checkpoint runs them once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...torch_private import without_torch_function

_MAKER = "_amct_maker"


def made_by(path: str, result: Any) -> Any:
    """Returns ``result``, noted as that of the module ``path`` if it is a tensor; one of inference mode as a copy."""
    if not isinstance(result, Tensor):
        return result
    with without_torch_function():
        if result.is_inference():  # it counts no versions
            with torch.inference_mode(False):
                result = result.clone()
        setattr(result, _MAKER, (path, result._version))
    return result


def maker_of(x: Any) -> str | None:
    """Returns the path of the module whose result ``x`` is; None if none was noted, or it was changed since then."""
    path, version = getattr(x, _MAKER, (None, None)) if isinstance(x, Tensor) else (None, None)
    if path is None:
        return None
    with without_torch_function():
        return path if not x.is_inference() and x._version == version else None
