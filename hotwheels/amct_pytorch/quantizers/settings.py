"""What a checkpoint says of the configuration of a quantizer: a few numbers, in a buffer of its own.

They are floats, like the flags beside them: averages of a model (an exponential moving average, SWA) keep floats that
are equal, and cut integers off.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# The places of these names, counted from 1, stand in checkpoints: add new ones at the end.
_ALGORITHMS = (
    "UlqFakeQuantize",
    "LuqActivationFakeQuantize",
    "LuqWeightFakeQuantize",
    "ArqWeightFakeQuantize",
    "LnqFakeQuantize",
    "SnqWeightFakeQuantize",
    "FixedFakeQuantize",
)
_NAMES = ("quantizer", "num_bits", "symmetric", "fixed_min", "channel_wise")
_FROM_OUTSIDE, _DOES_NOT_APPLY = 0, -1
DYNAMIC = 2  # of "symmetric": the data decides


def encode_settings(algorithm: str, num_bits: int, settings: Mapping[str, int]) -> Tensor:
    """Returns the settings of one quantizer, float32 [5].

    Args:
      algorithm: Its name in the registry, or the dotted path of a class from outside.
      num_bits: Its width.
      settings: Values of those of "symmetric", "fixed_min" and "channel_wise" that it has.
    """
    code = _ALGORITHMS.index(algorithm) + 1 if algorithm in _ALGORITHMS else _FROM_OUTSIDE
    return torch.tensor([code, num_bits, *(settings.get(name, _DOES_NOT_APPLY) for name in _NAMES[2:])]).float()


def find_difference(configured: Tensor, loaded: Tensor) -> str | None:
    """Returns a text that names the first setting in which the two differ and both values; None if they are equal."""
    ours, theirs = ([round(value) for value in one.reshape(-1).tolist()] for one in (configured, loaded))
    if len(ours) != len(theirs):
        return "the checkpoint describes its quantizer in a way this version does not know"
    for name, mine, other in zip(_NAMES, ours, theirs, strict=True):
        if mine != other:
            return (
                f"the checkpoint was made with {name} {_word(name, other)}, the configuration says {_word(name, mine)}"
            )
    return None


def _word(name: str, value: int) -> str:
    if name == "quantizer":
        return _ALGORITHMS[value - 1] if 0 < value <= len(_ALGORITHMS) else "a class from outside this package"
    if name == "num_bits":
        return str(value)
    return {0: "false", 1: "true", DYNAMIC: "dynamic"}.get(value, "not set")
