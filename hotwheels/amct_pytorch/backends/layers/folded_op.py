"""FoldedOp: a weighted operation with its BatchNorm folded into parameters of its own."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from ...nn.batch_norm_call import BatchNormCall
from ...nn.weighted_op import WeightedOp
from ..user_model.weight_hooks import stored_tensors


class FoldedOp(nn.Module):
    """A weighted operation with its BatchNorm folded into new parameters; without BatchNorm it shares the originals."""

    def __init__(self, op: WeightedOp) -> None:
        super().__init__()
        weight, bias = op.folded()
        self._op = op
        self.weight = nn.Parameter(weight.detach().cpu(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().cpu(), requires_grad=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Computes the operation."""
        return self._op.apply(input, self.weight, self.bias, output_size)


def cpu_copy(module: nn.Module) -> nn.Module:
    """Returns a copy of ``module`` in eval mode on the CPU, which shares the parameters that are there already.

    Buffers are copied: a forward may change them.
    """
    if isinstance(module, BatchNormCall):  # its parameters are computed when they are read
        module = module.frozen()
    shared: dict[int, object] = {id(one): one.detach().cpu() for one in stored_tensors(module)}
    shared |= {id(one): nn.Parameter(one.detach().cpu(), requires_grad=False) for one in module.parameters()}
    return copy.deepcopy(module, shared).cpu().eval()
