"""ShiftSearch: finds the shift bit N of one layer on the batch that completes its calibration (SPEC 4.6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.batch_norm import channel_factor
from ...core.channels import per_channel
from ...core.shift_bit import best_shift, search_shift, shift_errors
from ...nn.quantized_layer import QuantizedLayer


class ShiftSearch:
    """A forward hook of a QuantizedLayer with weights; looks at outputs until its grids are known.

    Attributes:
      bits: One N, or one per output channel where ``scale_w`` is a vector; empty until it is found.
    """

    def __init__(self, batch_norm: nn.Module | None = None) -> None:
        """``batch_norm`` is folded at save but still stands behind the layer: the accumulator will contain its work."""
        self._batch_norm = batch_norm
        self.bits: tuple[int, ...] = ()

    def __call__(self, layer: QuantizedLayer, args: tuple[Any, ...], output: Tensor) -> None:
        """Searches on ``output`` if it belongs to the batch that completes the calibration."""
        if not self.bits and layer.mode.observes and layer.is_calibrated and layer.is_quantized:
            self.bits = tuple(self._search(layer, output).reshape(-1).tolist())

    def store(self, layer: QuantizedLayer) -> None:
        """Gives ``layer`` its shift bits; none if it turned out not to be quantized."""
        if self.bits and layer.shift_bit is not None:
            layer.shift_bit.copy_(torch.tensor(self.bits, dtype=torch.int32))

    @torch.no_grad()
    def _search(self, layer: QuantizedLayer, output: Tensor) -> Tensor:
        assert layer.weighted is not None
        scale = layer.current_weight_params(*layer.weighted.folded()).scale
        deq = layer.activation[0].params().scale * scale
        if layer.op.allows_channel_wise and output.dim() == 3:  # one image without the batch axis
            output = output.unsqueeze(0)
        if self._batch_norm is not None:
            output, deq = _normalized(self._batch_norm, output, deq)
        if deq.dim() > scale.dim():
            # The factor of a BatchNorm makes one scale a vector; as long as the record has one scale it has one N.
            return best_shift(shift_errors(output, deq).sum(0))
        return search_shift(output, deq)


def _normalized(norm: Any, output: Tensor, deq: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what the BatchNorm makes of ``output``, and the unit of the folded accumulator."""
    factor = channel_factor(norm.running_var, norm.weight, norm.eps)
    rows = output.transpose(0, 1)
    rows = (rows - per_channel(norm.running_mean, rows)) * per_channel(factor, rows) + per_channel(norm.bias, rows)
    unit = torch.where(factor == 0, torch.ones_like(factor), factor.abs())
    return rows.transpose(0, 1), deq * unit
