"""Finds the shift bit N of one layer: on the batch that completes its calibration, or over batches (spec 4.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....core.search.shift_bit import best_shift, search_shift, shift_errors
from ....nn.quantized_layer import QuantizedLayer
from ....quantizers.distributed import total
from ...layers.layer_step import LayerStep


class ShiftSearch:
    """A forward hook of a QuantizedLayer with weights; finds N on the batch that completes the layer's calibration.

    The grids of a layer with several uses are known only after the forward, so its outputs are kept until then.

    Attributes:
      bits: One N, or one N per output channel if ``scale_w`` is a vector; empty until N is found.
    """

    def __init__(self) -> None:
        self.bits: tuple[int, ...] = ()
        self._outputs: list[Tensor] = []

    def __call__(self, layer: QuantizedLayer, args: tuple[Any, ...], output: Tensor) -> None:
        """Searches on ``output`` if it belongs to the batch that completes the calibration."""
        if self.bits or not layer.mode.observes:
            return
        if layer.has_several_uses:
            self._outputs.append(output.detach().clone())  # a copy, since the output may change until the forward ends
        elif layer.is_calibrated and layer.is_quantized:
            self.bits = tuple(self._search(layer, output).reshape(-1).tolist())

    @torch.no_grad()
    def end_forward(self, layer: QuantizedLayer) -> None:
        """Searches on the outputs of all uses, if that forward has completed the calibration."""
        outputs, self._outputs = self._outputs, []
        if outputs and layer.is_calibrated and layer.is_quantized:
            errors = torch.stack([shift_errors(*_with_unit(layer, one)) for one in outputs]).sum(0)
            errors = errors.sum(0) if _has_made_scales(layer) else errors
            self.bits = tuple(best_shift(errors).reshape(-1).tolist())

    def begin_forward(self) -> None:
        """Forgets the outputs of a forward that an error has ended."""
        self._outputs.clear()

    @torch.no_grad()
    def _search(self, layer: QuantizedLayer, output: Tensor) -> Tensor:
        output, deq = _with_unit(layer, output)
        return best_shift(shift_errors(output, deq).sum(0)) if _has_made_scales(layer) else search_shift(output, deq)


class ShiftErrors:
    """A forward hook of a QuantizedLayer with weights; adds up the errors of all shifts while ``is_on``.

    Attributes:
      is_on: Whether the hook takes outputs.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._total: Tensor | None = None

    @property
    def bits(self) -> tuple[int, ...]:
        """One N, or one N per output channel if ``scale_w`` is a vector; empty if no output was seen."""
        return () if self._total is None else tuple(best_shift(self._total).reshape(-1).tolist())

    def clear(self) -> None:
        """Discards all observed batches."""
        self._total = None

    def merge(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replaces the errors by ``total`` of them, the sum over several processes."""
        self._total = None if self._total is None else total(self._total)

    @torch.no_grad()
    def __call__(self, layer: QuantizedLayer, args: tuple[Any, ...], output: Tensor) -> None:
        """Observes the ``output`` of one batch."""
        if self.is_on and layer.is_calibrated and layer.is_quantized:
            errors = shift_errors(*_with_unit(layer, output))
            self._total = errors if self._total is None else self._total + errors


@torch.no_grad()
def renew_shift(step: LayerStep) -> None:
    """Finds the shift bits of the layer of ``step`` anew, for its float outputs; ignored if it has none (spec 4.6)."""
    if step.layer.shift_bit is None:
        return
    errors = ShiftErrors()
    errors.is_on = True
    for exact, _ in step.outputs():
        errors(step.layer, (), exact)
    errors.merge(total)
    step.layer.set_shift(errors.bits)


def _has_made_scales(layer: QuantizedLayer) -> bool:
    """Whether a BatchNorm's factor has made a vector of the single scale; the record still has one scale and one N."""
    assert layer.weighted is not None
    return layer.weighted.has_bare_grid and not layer.weighted.quantizer.channel_wise


def _with_unit(layer: QuantizedLayer, output: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``output`` with a batch axis, and the unit of the accumulator: [], or [C] with channel-wise scales."""
    assert layer.weighted is not None
    scale = layer.weighted.present_params().scale
    if layer.op.allows_channel_wise and output.dim() == 1 + layer.op.image_axes:  # one image without the batch axis
        output = output.unsqueeze(0)
    return output, layer.activation[0].params().scale * scale
