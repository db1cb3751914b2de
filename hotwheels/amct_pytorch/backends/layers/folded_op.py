"""FoldedOp: a weighted operation with its BatchNorm folded into its weight and bias."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...nn.batch_norm_call import BatchNormCall
from ...nn.weighted_op import WeightedOp
from ...torch_private import without_torch_function
from ..user_model.weight_hooks import stored_tensors


class UnfoldedWeight(nn.Parameter):
    """A folded weight that is not computed: it has shape and type, but no data (torch's meta device).

    The weight is ``base`` [C_out, ...] times ``factor`` [C_out, 1, ...], both on the CPU.
    """

    base: Tensor
    factor: Tensor

    @classmethod
    def of(cls, base: Tensor, factor: Tensor) -> UnfoldedWeight:
        """Returns the weight ``base * factor``."""
        weight = cls(torch.empty_like(base, device="meta"), requires_grad=False)
        weight.base, weight.factor = base, factor
        return weight


class FoldedOp(nn.Module):
    """A weighted operation with its BatchNorm folded in; without BatchNorm it shares the original parameters.

    A weight whose channels are only multiplied is computed in each forward and not kept, or large networks would be in
    memory twice. `keep_weight` computes and keeps the weight.
    """

    def __init__(self, op: WeightedOp) -> None:
        super().__init__()
        self._op = op
        parts = op.scaled_rows()
        if parts is None:
            self.keep_weight()
            return
        base, factor = parts
        self.weight: nn.Parameter = UnfoldedWeight.of(base.detach().cpu(), factor.detach().cpu())
        self._set_bias(op.folded_bias())

    def keep_weight(self) -> None:
        """Computes the weight and keeps it."""
        weight, bias = self._op.folded()
        self.weight = nn.Parameter(weight.detach().cpu(), requires_grad=False)
        self._set_bias(bias)

    def _set_bias(self, bias: Tensor | None) -> None:
        self.bias = None if bias is None else nn.Parameter(bias.detach().cpu(), requires_grad=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Computes the operation; on an input without data, its shape."""
        return self._op.apply(input, self._weight_for(input), self.bias, output_size)

    def _weight_for(self, input: Tensor) -> Tensor:
        weight = self.weight
        with without_torch_function():
            if isinstance(weight, UnfoldedWeight) and not input.is_meta:
                return weight.base * weight.factor
        return weight


def cpu_copy(module: nn.Module) -> nn.Module:
    """Returns a copy of ``module`` in eval mode on the CPU, which shares the parameters that are there already.

    Buffers are copied: a forward may change them.
    """
    if isinstance(module, BatchNormCall):  # its parameters are computed when they are read
        module = module.frozen()
    shared: dict[int, object] = {id(one): one.detach().cpu() for one in stored_tensors(module)}
    shared |= {id(one): nn.Parameter(one.detach().cpu(), requires_grad=False) for one in module.parameters()}
    return copy.deepcopy(module, shared).cpu().eval()
