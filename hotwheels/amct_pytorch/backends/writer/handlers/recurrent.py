"""Recurrent networks: LSTM, GRU and RNN over sequences of equal length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ...calls.function_names import name_of
from ..call import Call
from ..table import REFUSED, Written, handles
from .movement import sliced


@dataclasses.dataclass(frozen=True)
class _Kind:
    """One operator of ONNX.

    Attributes:
      op_type: Name of the operator.
      order: The gates in ONNX' order, by their numbers in torch's.
      attributes: Its settings.
      activation: The activation of each direction, if it is not the default.
    """

    op_type: str
    order: tuple[int, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    activation: str | None = None


_KINDS = {
    "lstm": _Kind("LSTM", (0, 3, 1, 2)),
    "gru": _Kind("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn_tanh": _Kind("RNN", (0,)),
    "rnn_relu": _Kind("RNN", (0,), activation="Relu"),
}


@handles(*_KINDS)
def recurrent(
    call: Call,
    input: Tensor,
    hx: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Written:
    """Writes one LSTM, GRU or RNN for each layer; packed sequences and projections are refused."""
    kind = _KINDS[name_of(call.function)]
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    is_packed = not isinstance(params, (list, tuple)) or not isinstance(has_biases, bool)
    if is_packed or input.dim() != 3 or (train and dropout) or not all(map(call.is_constant, params)):
        return REFUSED
    directions, per_direction = 1 + bidirectional, 4 if has_biases else 2
    hidden = int(params[1].shape[1])
    if len(params) != num_layers * directions * per_direction or any(one.shape[-1] != hidden for one in states):
        return REFUSED
    attributes = kind.attributes
    if kind.activation is not None:
        attributes = {**attributes, "activations": [kind.activation] * directions}
    x = call.value(input)
    x = call.op("Transpose", x, perm=[1, 0, 2]) if batch_first else x
    ends: list[list[ir.Value]] = []
    for layer in range(num_layers):
        first = layer * directions
        own = params[first * per_direction : (first + directions) * per_direction]
        parts = [own[start : start + per_direction] for start in range(0, len(own), per_direction)]
        starts = [_rows(call, one, first, first + directions, num_layers * directions) for one in states]
        y, *last = call.ops(
            kind.op_type,
            x,
            *_weights(call, kind, parts),
            None,
            *starts,
            outputs=1 + len(states),
            hidden_size=hidden,
            direction="bidirectional" if bidirectional else "forward",
            **attributes,
        )
        ends.append(last)
        if bidirectional:
            y = call.op("Transpose", y, perm=[0, 2, 1, 3])
            x = call.op("Reshape", y, call.ints([0, 0, -1]))
        else:
            x = call.op("Squeeze", y, call.ints([1]))
    x = call.op("Transpose", x, perm=[1, 0, 2]) if batch_first else x
    states_after = [list(one) for one in zip(*ends, strict=True)]
    return [x, *(one[0] if len(one) == 1 else call.op("Concat", *one, axis=0) for one in states_after)]


def _weights(call: Call, kind: _Kind, parts: Sequence[Sequence[Tensor]]) -> list[ir.Value | None]:
    """Returns the weights of the input and of the state, and the biases, by direction with ONNX' order of gates."""

    def ordered(x: Tensor) -> Tensor:
        gates = x.detach().chunk(len(kind.order))
        return torch.cat([gates[number] for number in kind.order])

    joined = [torch.stack([ordered(part[number]) for part in parts]) for number in range(len(parts[0]))]
    biases = call.constant(torch.cat(joined[2:], 1)) if len(joined) > 2 else None
    return [call.constant(joined[0]), call.constant(joined[1]), biases]


def _rows(call: Call, state: Tensor, start: int, stop: int, count: int) -> ir.Value | None:
    """Returns the initial states of one layer; None for zeros, which ONNX takes by default."""
    if call.is_constant(state):
        rows = state[start:stop]
        return call.constant(rows) if bool(rows.any()) else None
    value = call.value(state)
    return value if (start, stop) == (0, count) else sliced(call, value, [start], [stop], [0])
