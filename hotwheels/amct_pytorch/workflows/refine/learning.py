"""Learned rounding of one layer: its samples from all batches and processes, the learning, the held-out check."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backends.layers.layer_step import LayerStep
from ...core.refine.columns import as_rows
from ...core.refine.grid import RowGrid
from ...core.refine.soft_rounding import OutputSample, learned
from ...quantizers.distributed import maximum, process_count, process_rank, total
from ...quantizers.weight_grid import GridOrigin

Drawn = Sequence[Tensor]  # two: columns of the float and of the quantized network, [groups, positions, K]


def learn(
    step: LayerStep, target: Tensor, drawn: Sequence[tuple[Drawn, Drawn]], generator: torch.Generator
) -> str | None:
    """Learns the rounding of the layer of ``step``, in place; returns None, or why its weight is as before.

    Args:
      step: The layer; its present weight, rounded, is the start.
      target: [groups, rows, K], to which side of the start the second level of each weight lies.
      drawn: For each batch the columns to learn from, and the held-out columns.
      generator: Draws the positions of each step.
    """
    op, quantizer = step.weight.op, step.weight.quantizer
    samples = [_sample(parts, step) for parts in zip(*drawn, strict=True)]
    folded, bias = op.folded()
    params = step.weight.params(folded, bias)
    start = as_rows(quantizer.fake_quantize(folded, params).detach().double(), op.groups)
    shift = samples[0].outputs.new_zeros(op.groups, 1, start.shape[1])
    if op.stored_bias() is not None:
        means = samples[0].columns.mean(1, keepdim=True), samples[0].outputs.mean(1, keepdim=True)
        samples, shift = [one.centred(*means) for one in samples], means[1]
    taught, judged = samples
    found = learned(start, target, RowGrid.of(params, start), taught, shift, generator)
    before, after = (judged.errors(one.float(), shift) for one in (start, found))
    is_better = after < before
    if not bool(is_better.any()):
        return "the output of held-out data did not come nearer to the float output"
    changed = torch.where(is_better.unsqueeze(2), found, start).reshape(folded.shape)
    op.set_folded(changed)
    if quantizer.grid_origin is GridOrigin.STATE:
        quantizer.adopt(params, changed)
    return None


def _sample(parts: tuple[Drawn, ...], step: LayerStep) -> OutputSample:
    """Returns the sample of the drawn columns of all batches and processes, in the order of the batches."""
    op = step.reference_weight.op
    folded, bias = op.folded()
    weight = as_rows(folded.detach(), op.groups)
    outputs = [exact @ weight.transpose(1, 2) for exact, _ in parts]
    if bias is not None:
        outputs = [one + bias.detach().reshape(weight.shape[0], 1, -1) for one in outputs]
    columns = _gathered([quantized for _, quantized in parts])
    return OutputSample(columns, _gathered(outputs), step.activation)


def _gathered(parts: list[Tensor]) -> Tensor:
    """Returns the parts of all processes along axis 1: the first batch of every process, the second one, ..."""
    if process_count() == 1:
        return torch.cat(parts, 1)
    most = int(maximum(torch.tensor(len(parts))))
    counts = torch.zeros(most, process_count(), dtype=torch.int64)
    counts[: len(parts), process_rank()] = torch.tensor([one.shape[1] for one in parts])
    counts = total(counts)
    whole = parts[0].new_zeros(parts[0].shape[0], int(counts.sum()), parts[0].shape[2])
    firsts = (counts.flatten().cumsum(0) - counts.flatten()).reshape(counts.shape)[:, process_rank()]
    for part, first in zip(parts, firsts.tolist(), strict=False):
        whole[:, first : first + part.shape[1]] = part
    return total(whole)
