"""InProjection: one of the three projections of ``torch.nn.MultiheadAttention`` as a Linear of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class InProjection(nn.Linear):
    """A Linear on some rows of a parameter that the attention module owns.

    ``weight`` and ``bias`` are slices of the owner's parameters, made anew each time they are read, so that gradients,
    optimizers and moves to another device reach the owner's parameter. This module saves and loads nothing: the
    state_dict holds the owner's parameters under the names of the float model.

    Args:
      weight: The owner's parameter [rows, in_features].
      bias: The owner's parameter, of the projections of query, key and value in this order; None without bias.
      rows: The rows of ``weight`` that belong to this projection.
      bias_rows: The elements of ``bias`` that belong to this projection.
    """

    amct_leaf = True
    packed_weight: nn.Parameter
    packed_bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, rows: slice, bias_rows: slice) -> None:
        """See the class for the arguments."""
        nn.Module.__init__(self)  # nn.Linear would make parameters of its own
        self.in_features = weight.shape[1]
        self.out_features = rows.stop - rows.start
        self.packed_weight = weight
        self.register_parameter("packed_bias", bias)
        self._rows = rows
        self._bias_rows = bias_rows

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The rows of the owner's parameter, differentiable."""
        return self.packed_weight[self._rows]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The elements of the owner's parameter, differentiable."""
        return None if self.packed_bias is None else self.packed_bias[self._bias_rows]

    def extra_repr(self) -> str:
        """The same text as a Linear's."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.packed_bias is not None}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Saves nothing, since the attention module saves its parameters."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads nothing, since the attention module loads its parameters."""


def attach_projections(attention: nn.MultiheadAttention) -> None:
    """Registers the projections of ``attention`` as ``q_proj``, ``k_proj`` and ``v_proj``, unless it has them."""
    size = attention.embed_dim
    own = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    for index, (name, weight) in enumerate(zip(PROJECTIONS, own, strict=True)):
        third = slice(index * size, (index + 1) * size)
        rows = third if weight is None else slice(0, size)
        weight = attention.in_proj_weight if weight is None else weight
        if name not in attention._modules:
            made = InProjection(weight, attention.in_proj_bias, rows, third)
            attention.add_module(name, made.train(attention.training))
