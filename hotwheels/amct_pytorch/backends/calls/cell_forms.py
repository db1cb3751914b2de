"""One step of a recurrent network, written as products and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _lstm_cell(
    input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    hidden, cell = hx
    gates = F.linear(input, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
    enter, forget, content, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * content.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    of_input = F.linear(input, w_ih, b_ih).chunk(3, -1)
    of_state = F.linear(hx, w_hh, b_hh).chunk(3, -1)
    reset, update = ((of_input[gate] + of_state[gate]).sigmoid() for gate in (0, 1))
    new = (of_input[2] + reset * of_state[2]).tanh()
    return new + update * (hx - new)


def _rnn_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    return activation(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))


CELL_FORMS: Mapping[str, Callable[..., Any]] = {
    "lstm_cell": _lstm_cell,
    "gru_cell": _gru_cell,
    "rnn_tanh_cell": lambda *args: _rnn_cell(*args, activation=torch.tanh),
    "rnn_relu_cell": lambda *args: _rnn_cell(*args, activation=torch.relu),
}
