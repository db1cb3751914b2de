"""Recurrent layers in float64: RNN, LSTM, GRU, in one or both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .activation import sigmoid
from .registry import Array, register

# (input's part, state's part of all gates [batch, gates * hidden], old states) -> new states.
_Step = Callable[[Array, Array, tuple[Array, ...]], tuple[Array, ...]]


@register("RNN")
def _rnn(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    functions: dict[str, Callable[[Array], Array]] = {"Tanh": np.tanh, "Relu": lambda x: np.maximum(x, 0.0)}
    activations = {functions[name] for name in node.get("activations", ("Tanh",))}
    (activation,) = activations

    def step(x: Array, h: Array, _states: tuple[Array, ...]) -> tuple[Array, ...]:
        return (activation(x + h),)

    return _run(node, inputs, step, gates=1, initial=inputs[5:6])


@register("LSTM")
def _lstm(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """LSTM; gates in the order input, output, forget, cell."""
    if len(inputs) > 7 and inputs[7] is not None:
        raise ValueError("peepholes are not supported.")

    def step(x: Array, h: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        i, o, f, c = np.split(x + h, 4, axis=-1)
        cell = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(c)
        return sigmoid(o) * np.tanh(cell), cell

    return _run(node, inputs, step, gates=4, initial=inputs[5:7])


@register("GRU")
def _gru(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """GRU; gates in the order update, reset, hidden. The reset gate is applied after the product, as in torch."""
    if not node.get("linear_before_reset", 0):
        raise ValueError("linear_before_reset = 0 is not supported.")

    def step(x: Array, h: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        (update_x, reset_x, hidden_x), (update_h, reset_h, hidden_h) = (np.split(one, 3, axis=-1) for one in (x, h))
        update = sigmoid(update_x + update_h)
        hidden = np.tanh(hidden_x + sigmoid(reset_x + reset_h) * hidden_h)
        return ((1.0 - update) * hidden + update * states[0],)

    return _run(node, inputs, step, gates=3, initial=inputs[5:6])


def _run(node: Node, inputs: Sequence[Any], step: _Step, gates: int, initial: Sequence[Any]) -> Sequence[Array]:
    """Returns all outputs [time, directions, batch, hidden], and the last states, each [directions, batch, hidden]."""
    x, weights, recurrent = inputs[:3]
    if (len(inputs) > 4 and inputs[4] is not None) or node.get("layout", 0):
        raise ValueError("sequences of different lengths, or with the batch first, are not supported.")
    hidden, count = node.get("hidden_size"), 2 if gates == 4 else 1
    biases = inputs[3] if len(inputs) > 3 and inputs[3] is not None else np.zeros((len(weights), 2 * gates * hidden))
    zeros = np.zeros((len(weights), x.shape[1], hidden))
    starts = [one if one is not None else zeros for one in (*initial, *[None] * count)][:count]
    outputs, lasts = [], []
    for at in range(len(weights)):
        is_backward = node.get("direction", "forward") == "reverse" or at == 1
        own, others = np.split(biases[at], 2)
        found: list[Array] = []
        states = tuple(one[at] for one in starts)
        for row in x[::-1] if is_backward else x:
            states = step(row @ weights[at].T + own, states[0] @ recurrent[at].T + others, states)
            found.append(states[0])
        outputs.append(np.stack(found[::-1] if is_backward else found))
        lasts.append(states)
    return np.stack(outputs, axis=1), *(np.stack(one) for one in zip(*lasts, strict=True))
