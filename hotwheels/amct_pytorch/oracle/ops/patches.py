"""Col2Im: adds up patches, which may overlap, to an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import Array, register
from .windows import windows


@register("Col2Im")
def _col2im(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """Col2Im; sums in the order of kernel positions, as torch does, since sums of grid points may be rounding ties."""
    x, (size, kernel) = inputs[0], (tuple(map(int, one)) for one in inputs[1:3])
    places = windows(node, size, kernel)
    columns = x.reshape(len(x), -1, *kernel, *places.output)
    image = places.pad(np.zeros((*columns.shape[:2], *size)), 0.0)
    for position in np.ndindex(*kernel):
        places.tap(image, position)[...] += columns[(slice(None), slice(None), *position)]
    inside = (slice(begin, begin + extent) for begin, extent in zip(places.begin, size, strict=True))
    return (image[(slice(None), slice(None), *inside)],)
