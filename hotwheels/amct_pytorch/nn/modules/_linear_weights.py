"""Loading of checkpoints in which the 1x1 convolutions of a block were still Linear layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LinearWeightsMixin(nn.Module):
    """Takes a weight [out, in] of a Linear for the weight [out, in, 1, 1] of a convolution that is a direct child.

    The two hold the same numbers, so that a block trained with Linear layers loads strictly.
    """

    # Not a load_state_dict hook: torch ties a hook to one object, and a shallow copy outlives it.
    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, child in self.named_children():
            weight = state_dict.get(f"{prefix}{name}.weight")
            if isinstance(child, nn.Conv2d) and weight is not None and weight.dim() == 2:
                state_dict[f"{prefix}{name}.weight"] = weight[:, :, None, None]
        super()._load_from_state_dict(state_dict, prefix, *args)
