"""The tensors in the result of a model, in the order of the outputs of the exported model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def output_tensors(result: Any) -> tuple[Tensor, ...]:
    """Returns the tensors in tuples, lists, dicts and dataclasses, at any depth; other values are left out."""
    return tuple(_tensors(result))


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
