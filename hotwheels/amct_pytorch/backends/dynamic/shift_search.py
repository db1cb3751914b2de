"""ShiftSearch: finds the shift bit N of one layer on the batch that completes its calibration (SPEC 4.6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.shift_bit import best_shift, search_shift, shift_errors
from ...nn.quantized_layer import QuantizedLayer


class ShiftSearch:
    """A forward hook of a QuantizedLayer with weights; looks at outputs until its grids are known.

    Attributes:
      bits: One N, or one per output channel where ``scale_w`` is a vector; empty until it is found.
    """

    def __init__(self) -> None:
        self.bits: tuple[int, ...] = ()

    def __call__(self, layer: QuantizedLayer, args: tuple[Any, ...], output: Tensor) -> None:
        """Searches on ``output`` if it belongs to the batch that completes the calibration."""
        if not self.bits and layer.mode.observes and layer.is_calibrated and layer.is_quantized:
            self.bits = tuple(self._search(layer, output).reshape(-1).tolist())

    @torch.no_grad()
    def _search(self, layer: QuantizedLayer, output: Tensor) -> Tensor:
        assert layer.weight is not None
        deq = layer.activation[0].params().scale * layer.present_weight_params().scale
        if layer.op.allows_channel_wise and output.dim() == 3:  # one image without the batch axis
            output = output.unsqueeze(0)
        if layer.has_bare_grid and not layer.weight.channel_wise:
            # The factor of a BatchNorm made one scale a vector; as long as the record has one scale it has one N.
            return best_shift(shift_errors(output, deq).sum(0))
        return search_shift(output, deq)
