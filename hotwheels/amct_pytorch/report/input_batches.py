"""The inputs of a comparison, cut into batches of the size that a saved file takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..log import get_logger
from ..onnx_io.proto_file import read_proto

_log = get_logger(__name__)
Inputs = Sequence[NDArray[Any]]


def batches_for(path: Path, inputs: Inputs) -> list[Inputs]:
    """Returns ``inputs``, or batches of them if the model in ``path`` has a fixed first axis that is shorter.

    Raises:
      ConfigError: An input has other sizes than the model takes, or the samples do not make whole batches.
    """
    graph = read_proto(path, with_external_data=False).graph
    constants = {one.name for one in graph.initializer}
    declared = {
        one.name: [axis.dim_value if axis.HasField("dim_value") else None for axis in one.type.tensor_type.shape.dim]
        for one in graph.input
        if one.name not in constants and one.type.tensor_type.HasField("shape")
    }
    if len(declared) != len(inputs):
        return [inputs]  # whoever runs the model says what is missing
    counts = {_batches_of(path, name, sizes, one) for (name, sizes), one in zip(declared.items(), inputs, strict=True)}
    count = max(counts)
    if not counts <= {1, count}:
        raise ConfigError(f"'{path}': the inputs of --input have different numbers of samples.")
    if count == 1:
        return [inputs]
    shapes = ", ".join(f"'{name}' {_text(sizes)}" for name, sizes in declared.items())
    _log.info("'%s' takes %s: the samples of --input are run in %d batches.", path, shapes, count)
    split = [
        np.split(one, count) if sizes[0] not in (None, len(one)) else [one] * count
        for sizes, one in zip(declared.values(), inputs, strict=True)
    ]
    return [list(parts) for parts in zip(*split, strict=True)]


def _batches_of(path: Path, name: str, sizes: Sequence[int | None], given: NDArray[Any]) -> int:
    """Returns how many batches of the model the input ``given`` makes."""
    fits = len(sizes) == given.ndim and all(
        size in (None, found) for size, found in zip(sizes[1:], given.shape[1:], strict=True)
    )
    if not fits or (sizes and sizes[0] is not None and (not len(given) or len(given) % sizes[0])):
        raise ConfigError(
            f"--input for '{name}' has the shape {list(given.shape)}; '{path}' takes {_text(sizes)}, or several"
            " times as many samples."
        )
    return 1 if not sizes or sizes[0] is None else len(given) // sizes[0]


def _text(sizes: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in sizes)}]"
