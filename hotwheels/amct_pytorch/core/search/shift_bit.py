"""Shift bit N: the right shift that fits the int32 accumulator into int16 (spec 4.6)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..channels import per_channel
from ..statistics.extremes import row_extremes

MAX_SHIFT = 16
_INT32 = (-(2**31), 2**31 - 1)
_INT16 = (-(2**15), 2**15 - 1)
# Elements worked on at once: 16 shifts in float64 on all of a large output would be 32 times its memory.
_CHUNK = 1 << 16
_FEW = 1 << 24  # values per row; the proof in _search holds for fewer
_SAMPLE = 64  # values per row tested for a set bit; by chance the bit is 0 in all of them once in 2^64


def search_shift(output: Tensor, deq: Tensor) -> Tensor:
    """Returns the best shift N in 1..16 of one batch, int32; [] for a scalar ``deq``, [C] for one per channel.

    The same as ``best_shift(shift_errors(output, deq))``. Mostly the largest value, the smallest value and a few others
    decide (`_decided`); only if they do not, all values are read.
    """
    output = output.detach()
    count = output.numel() // max(1, deq.numel())
    if count >= _FEW:
        return best_shift(shift_errors(output, deq))
    low, high = (_as_accumulator(values, deq.reshape(-1)).long() for values in _extremes(output, deq))
    result = _fitting_shift(low, high)
    is_open = ~_decided(result, low, high, count, _as_accumulator(_some(output, deq), deq.reshape(-1, 1)))
    if bool(is_open.any()):
        rows = _rows(output[:, is_open] if deq.dim() else output, deq)
        result[is_open] = _search(_accumulator(rows, deq.reshape(-1, 1)[is_open]))
    return result.reshape(deq.shape)


def shift_errors(output: Tensor, deq: Tensor) -> Tensor:
    """Returns ``err_N = sum (s32 - s16 * 2^N)^2`` for N = 1..16: float64 of shape [16], or [C, 16].

    ``s32 = clip(rhe(output / deq), int32)``, ``s16 = clip(floor(s32 / 2^N), int16)``. Errors of several batches add up.

    Args:
      output: Layer output before activation; channels on axis 1 if ``deq`` is a vector [N, C, ...].
      deq: Real value of one unit of the accumulator, ``scale_d * scale_w``, [] or [C].
    """
    errors = _errors(_rows(output, deq), deq.reshape(-1))
    return errors.reshape(*deq.shape, MAX_SHIFT)


def best_shift(errors: Tensor) -> Tensor:
    """Returns the shift of the smallest error along the last axis, int32; a tie goes to the LARGER shift."""
    return (MAX_SHIFT - errors.flip(-1).argmin(-1)).to(torch.int32)


def _rows(output: Tensor, deq: Tensor) -> Tensor:
    """The output as [C, n], or [1, n] where ``deq`` is a scalar."""
    output = output.detach()
    return output.transpose(0, 1).reshape(output.shape[1], -1) if deq.dim() else output.reshape(1, -1)


def _search(s32: Tensor) -> Tensor:
    """Returns the best shift of each of the int32 rows [C, n].

    Let F be the smallest shift that clips nothing. Above F the remainders only grow, so F is at least as good as any
    larger shift; on a tie the larger shift is still chosen. With a shift below F - 1 the largest value alone is wrong
    by ``2^(13 + F)`` or more, and the square of that exceeds the sum of ``n < _FEW`` squared remainders below ``2^F``.
    """
    fitting = _fitting_shift(s32.amin(1).long(), s32.amax(1).long())
    best, error = fitting, _error(s32, fitting)
    below = (fitting - 1).clamp(min=1)
    error_below = _error(s32, below)
    best, error = torch.where(error_below < error, below, best), torch.minimum(error, error_below)
    tied, larger = (fitting < MAX_SHIFT).nonzero().flatten(), fitting
    while tied.numel():
        larger = larger + 1
        tied = tied[_error(s32[tied], larger[tied]) == error[tied]]
        best[tied] = larger[tied]
        tied = tied[larger[tied] < MAX_SHIFT]
    return best


def _decided(fitting: Tensor, low: Tensor, high: Tensor, count: int, some: Tensor) -> Tensor:
    """Returns bool [C]: whether the ``fitting`` shift F of each row of ``count`` values is certainly the best.

    With F the squared error of a value is below ``2^(2 F)``, so F - 1 saves less than ``count`` times that; F is better
    if F - 1 clips the largest value by more. F + 1 is as good as F only if bit F is 0 in every value, which one value
    of ``some`` [C, n] with that bit set refutes.
    """
    below = (fitting - 1).long()
    excess = torch.maximum(high - (_INT16[1] << below), (_INT16[0] << below) - low).clamp(min=0)
    beats_smaller = (fitting == 1) | (excess.double().square() >= count * 4.0 ** fitting.double())
    beats_larger = (fitting == MAX_SHIFT) | ((some.long() >> fitting.long().unsqueeze(1)) & 1).bool().any(1)
    return beats_smaller & beats_larger


def _extremes(output: Tensor, deq: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each row, [C]."""
    if not deq.dim():
        return output.amin().reshape(1), output.amax().reshape(1)
    # One axis at a time is several times faster than both at once.
    lows, highs = row_extremes(output.reshape(output.shape[0] * output.shape[1], -1))
    return lows.view(output.shape[:2]).amin(0), highs.view(output.shape[:2]).amax(0)


def _some(output: Tensor, deq: Tensor) -> Tensor:
    """About _SAMPLE values of each row, [C, n]."""
    if not deq.dim():
        return output.reshape(-1)[:_SAMPLE].unsqueeze(0)
    images = output.reshape(*output.shape[:2], -1)[:, :, :_SAMPLE]
    return images[: -(-_SAMPLE // images.shape[2])].transpose(0, 1).flatten(1)


def _fitting_shift(low: Tensor, high: Tensor) -> Tensor:
    """The smallest shift in 1..16 with which the int64 values from ``low`` to ``high`` fit into int16, int32 [C]."""
    shifts = torch.arange(1, MAX_SHIFT + 1, device=low.device)
    fits = ((high.unsqueeze(1) >> shifts) <= _INT16[1]) & ((low.unsqueeze(1) >> shifts) >= _INT16[0])
    return (MAX_SHIFT + 1 - fits.sum(1)).to(torch.int32)


def _error(s32: Tensor, shift: Tensor) -> Tensor:
    """``sum (s32 - s16 * 2^shift)^2`` of each row, float64 [C]."""
    by = shift.to(torch.int32).unsqueeze(1)
    total = s32.new_zeros(s32.shape[0], dtype=torch.float64)
    for piece in _pieces(s32):
        s16 = (piece >> by).clamp_(*_INT16)
        total += (piece - s16.bitwise_left_shift_(by)).double().square_().sum(1)
    return total


def _accumulator(rows: Tensor, deq: Tensor) -> Tensor:
    """``s32`` of the [C, n] rows with units [C, 1]."""
    s32 = torch.empty(rows.shape, dtype=torch.int32, device=rows.device)
    for piece, result in zip(_pieces(rows), _pieces(s32), strict=True):
        result.copy_(_as_accumulator(piece, deq))
    return s32


def _as_accumulator(values: Tensor, deq: Tensor) -> Tensor:
    """``clip(rhe(values / deq), int32)`` in float64."""
    return (values.double() / deq.double()).round_().clamp_(*_INT32)


def _pieces(rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, max(1, _CHUNK // rows.shape[0]), dim=1)


def _errors(rows: Tensor, deq: Tensor) -> Tensor:
    """Errors of [C, n] rows with a unit each, as [C, 16]."""
    total = rows.new_zeros((rows.shape[0], MAX_SHIFT), dtype=torch.float64)
    for piece in _pieces(rows):
        s32 = _as_accumulator(piece, per_channel(deq, piece))
        for shift in range(1, MAX_SHIFT + 1):
            s16 = torch.floor(s32 * 0.5**shift).clamp_(*_INT16)
            total[:, shift - 1] += (s32 - s16 * 2.0**shift).square_().sum(1)
    return total
