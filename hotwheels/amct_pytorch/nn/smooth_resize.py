"""Resizing with ``antialias=True``, which ONNX's Resize has from opset 18 on only: products with constant matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_shares(
    sizes: Sequence[int], size: Any, scale_factor: Any, mode: str, align_corners: bool | None, recompute: bool | None
) -> tuple[Tensor, Tensor]:
    """Returns the shares of the rows, and of the columns, of an image with ``sizes`` in those of the result.

    The matrices are float32, [size after, size before]; the other arguments are those of ``F.interpolate``.
    """
    return tuple(  # type: ignore[return-value]
        _shares(before, _of(size, axis), _of(scale_factor, axis), mode, align_corners, recompute)
        for axis, before in enumerate(sizes)
    )


def smoothly_resized(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Returns ``F.interpolate`` of these arguments; with ``antialias`` computed as products with the matrices."""
    if not antialias:
        return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor)
    shares = resize_shares(input.shape[-2:], size, scale_factor, mode, align_corners, recompute_scale_factor)
    rows, columns = (one.to(input.device, input.dtype) for one in shares)
    return rows @ (input @ columns.T)


def _shares(before: int, size: Any, factor: Any, mode: str, align_corners: Any, recompute: Any) -> Tensor:
    # One image for each element, of two columns: torch's kernel is wrong for one column.
    images = torch.eye(before).view(before, 1, before, 1).repeat(1, 1, 1, 2)
    wanted = {"scale_factor": (factor, 1.0)} if size is None else {"size": (size, 2)}
    setting = {"align_corners": align_corners, "recompute_scale_factor": recompute}
    return F.interpolate(images, **wanted, **setting, mode=mode, antialias=True)[:, 0, :, 0].T.contiguous()


def _of(given: Any, axis: int) -> Any:
    return given[axis] if isinstance(given, Sequence) else given
