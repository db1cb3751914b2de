"""nn.MultiheadAttention as modules: its three projections and ``out_proj`` are Linear layers of the dynamic path.

torch computes all four as functions. Here the forward of each attention calls ``<path>.q_proj``, ``k_proj`` and
``v_proj``, slices of its packed parameters without state of their own, and ``<path>.out_proj``. The products of the
data stay functions, and thus in float.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.in_projection import attach_projections
from ...nn.module_hooks import has_hooks
from ..calls.attention_heads import by_head, in_tokens, split_heads
from ..calls.masked_softmax import masked_softmax
from .forwards import FORWARD, OriginalForward, Replacement, replace_forward


def place_attention(model: nn.Module) -> None:
    """Replaces, in place, the forward of each attention in ``model`` that this module covers.

    The encoder layers of torch then call their modules one by one, instead of a kernel that computes the whole layer.
    """
    for module in model.modules():
        if _is_covered(module):
            assert isinstance(module, nn.MultiheadAttention)
            attach_projections(module)
            replace_forward(module, AttentionForward(OriginalForward(module)))
        elif isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _is_covered(module: nn.Module) -> bool:
    """Whether ``module`` is torch's attention, without hooks inside, and without additional keys."""
    if not isinstance(module, nn.MultiheadAttention) or FORWARD in vars(module):
        return False
    has_more_keys = module.bias_k is not None or module.add_zero_attn
    is_plain = type(module).forward is nn.MultiheadAttention.forward
    return is_plain and not has_more_keys and not any(has_hooks(one) for one in module.children())


class AttentionForward(Replacement):
    """Computes what ``nn.MultiheadAttention.forward`` does, with the same arguments and results."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Runs the projections as modules; ``is_causal`` only says that ``attn_mask`` is causal."""
        module: Any = self.original.module
        batch_axis = 0 if module.batch_first else 1
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = (x.unsqueeze(batch_axis) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        queries, keys, values = (
            split_heads(project(x), module.num_heads, module.head_dim, by_head(module.batch_first))
            for project, x in ((module.q_proj, query), (module.k_proj, key), (module.v_proj, value))
        )
        scores = queries * module.head_dim**-0.5 @ keys.transpose(-2, -1)
        weights = masked_softmax(scores, attn_mask, key_padding_mask)
        weights = F.dropout(weights, module.dropout, module.training)
        attended = in_tokens(weights @ values, module.batch_first).flatten(2)
        result: Tensor = module.out_proj(attended)
        if average_attn_weights:
            weights = weights.mean(1)
        if not is_batched:
            result, weights = result.squeeze(batch_axis), weights.squeeze(0)
        return result, weights if need_weights else None
