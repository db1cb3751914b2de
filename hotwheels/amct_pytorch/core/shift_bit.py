"""Shift bit N: the right shift that fits the int32 accumulator into int16 (SPEC 4.6)."""

from __future__ import annotations

import torch
from torch import Tensor

from .channels import per_channel

MAX_SHIFT = 16
_INT32 = (-(2**31), 2**31 - 1)
_INT16 = (-(2**15), 2**15 - 1)
# Elements worked on at once: 16 shifts in float64 on all of a large output would be 32 times its memory.
_CHUNK = 1 << 16


def search_shift(output: Tensor, deq: Tensor) -> Tensor:
    """Returns the best shift N in 1..16 of one batch, int32; [] for a scalar ``deq``, [C] for one per channel."""
    return best_shift(shift_errors(output, deq))


def shift_errors(output: Tensor, deq: Tensor) -> Tensor:
    """Returns ``err_N = sum (s32 - s16 * 2^N)^2`` for N = 1..16: float64 of shape [16], or [C, 16].

    ``s32 = clip(rhe(output / deq), int32)``, ``s16 = clip(floor(s32 / 2^N), int16)``. Errors of several batches add up.

    Args:
      output: Layer output before activation; channels on axis 1 if ``deq`` is a vector [N, C, ...].
      deq: Real value of one unit of the accumulator, ``scale_d * scale_w``, [] or [C].
    """
    if deq.dim() == 0:
        return _errors(output.detach().reshape(1, -1), deq.reshape(1))[0]
    channels = output.detach().transpose(0, 1).reshape(output.shape[1], -1)
    return _errors(channels, deq)


def best_shift(errors: Tensor) -> Tensor:
    """Returns the shift of the smallest error along the last axis, int32; a tie goes to the LARGER shift."""
    return (MAX_SHIFT - errors.flip(-1).argmin(-1)).to(torch.int32)


def _errors(rows: Tensor, deq: Tensor) -> Tensor:
    """Errors of [C, n] rows with a unit each, as [C, 16]."""
    total = rows.new_zeros((rows.shape[0], MAX_SHIFT), dtype=torch.float64)
    for piece in torch.split(rows, max(1, _CHUNK // rows.shape[0]), dim=1):
        s32 = torch.round(piece.double() / per_channel(deq.double(), piece)).clamp_(*_INT32)
        for shift in range(1, MAX_SHIFT + 1):
            s16 = torch.floor(s32 * 0.5**shift).clamp_(*_INT16)
            total[:, shift - 1] += (s32 - s16 * 2.0**shift).square_().sum(1)
    return total
