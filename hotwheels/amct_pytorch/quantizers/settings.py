"""The settings of a quantizer that its checkpoint holds: a few numbers in one buffer.

They are floats, like the flags beside them: averaging models (exponential moving average, SWA) keeps equal floats as
they are, but truncates integers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Checkpoints hold the position of a name, counted from 1: add new names at the end.
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
DYNAMIC = 2  # value of "symmetric" if the data decides


def encode_settings(algorithm: str, num_bits: int, settings: Mapping[str, int]) -> Tensor:
    """Returns the settings of one quantizer, float32 [5].

    Args:
      algorithm: Name of the quantizer in the registry, or the dotted path of a class from outside.
      num_bits: Width of the stored integer.
      settings: Values of "symmetric", "fixed_min" and "channel_wise", as far as the quantizer has them.
    """
    code = _ALGORITHMS.index(algorithm) + 1 if algorithm in _ALGORITHMS else _FROM_OUTSIDE
    return torch.tensor([code, num_bits, *(settings.get(name, _DOES_NOT_APPLY) for name in _NAMES[2:])]).float()


def find_difference(configured: Tensor, loaded: Tensor) -> str | None:
    """Returns a text with the first setting that differs and both of its values; None if all settings are equal."""
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
