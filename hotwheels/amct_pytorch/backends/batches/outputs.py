"""The tensors in the result of a model, in the order of the outputs of the exported model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def output_tensors(result: Any) -> tuple[Tensor, ...]:
    """Returns the tensors in tuples, lists, dicts and dataclasses, at any depth; other values are left out."""
    return tuple(_tensors(result))


def are_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether two results have the same types, shapes and values; NaN equals NaN."""
    return len(ours) == len(theirs) and all(_is_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for one in result.values():
            yield from _tensors(one)
    elif isinstance(result, (list, tuple)):
        for one in result:
            yield from _tensors(one)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            yield from _tensors(getattr(result, field.name))
