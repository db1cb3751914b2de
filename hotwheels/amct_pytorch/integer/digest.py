"""Golden files: inputs and the digests of what the oracle computed from them, ``<prefix>_golden.npz``."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, ConfigError, RecordError
from ..files import PathLike, check_input_file, write_bytes_atomic
from .interpreter import Interpreter, Result

_INPUT, _EDGES, _SUMS = "input:", "edges:", "sums:"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """The content of a golden file.

    Attributes:
      inputs: Graph inputs by name.
      edges: Digest of the quantized inputs, by layer.
      sums: Digest of the accumulators, by layer; only CUBE layers have one.
    """

    inputs: Mapping[str, NDArray[Any]]
    edges: Mapping[str, str]
    sums: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerVerdict:
    """Whether one layer computes what the golden file says; ``reason`` is empty where it does."""

    name: str
    is_ok: bool
    reason: str = ""


def digests(result: Result) -> dict[str, str]:
    """Returns the SHA-256 of the quantized inputs of each layer, one after the other as little-endian int32 (hex)."""
    return {name: _digest(*arrays) for name, arrays in result.edges.items()}


def sum_digests(result: Result) -> dict[str, str]:
    """Returns the same of the accumulators: it is what a wrong weight or bias changes first."""
    return {name: _digest(sums) for name, sums in result.sums.items()}


def write_golden(path: PathLike, inputs: Mapping[str, NDArray[Any]], result: Result) -> None:
    """Writes inputs and digests, atomically."""
    arrays: dict[str, Any] = {f"{_INPUT}{name}": np.asarray(array) for name, array in inputs.items()}
    arrays |= {f"{_EDGES}{name}": np.array(digest) for name, digest in digests(result).items()}
    arrays |= {f"{_SUMS}{name}": np.array(digest) for name, digest in sum_digests(result).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes_atomic(path, buffer.getvalue())


def make_golden(prefix: PathLike, inputs: Sequence[NDArray[Any]]) -> Path:
    """Runs the deploy pair of ``prefix`` on ``inputs``, in the graph's order, and writes ``<prefix>_golden.npz``.

    Raises:
      ConfigError: The graph has another number of inputs.
      CalibrationError: An accumulator exceeds int32.
    """
    interpreter = Interpreter(*deploy_paths(prefix))
    names = list(interpreter.pair.graph.inputs)
    if len(names) != len(inputs):
        raise ConfigError(f"The deploy model has the inputs {names}; {len(inputs)} golden inputs are given.")
    feeds = dict(zip(names, inputs, strict=True))
    write_golden(golden_path(prefix), feeds, interpreter.run(feeds))
    return golden_path(prefix)


def read_golden(path: PathLike) -> Golden:
    """Returns the content of a golden file.

    Raises:
      FileNotFoundError: There is no such file.
      RecordError: It is no golden file.
    """
    path = check_input_file(path, "Golden file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(f"'{path}' is not a golden file: {error}") from error
    return Golden(
        inputs=_part(arrays, _INPUT),
        edges={name: str(array) for name, array in _part(arrays, _EDGES).items()},
        sums={name: str(array) for name, array in _part(arrays, _SUMS).items()},
    )


def golden_path(prefix: PathLike) -> Path:
    """Returns ``<prefix>_golden.npz``."""
    return _file(prefix, "golden.npz")


def deploy_paths(prefix: PathLike) -> tuple[Path, Path]:
    """Returns the deploy model and the parameter file of ``prefix``; the binary form only where there is no text."""
    text, binary = _file(prefix, "quant_param_record.txt"), _file(prefix, "quant_param_record.bin")
    return _file(prefix, "deploy_model.onnx"), binary if binary.is_file() and not text.is_file() else text


def verify(prefix: PathLike) -> list[LayerVerdict]:
    """Runs the deploy pair of ``prefix`` on its golden inputs and returns a verdict on every layer, in graph order.

    Raises:
      FileNotFoundError: A file is missing.
      RecordError: The files do not parse, or do not belong together.
    """
    golden = read_golden(golden_path(prefix))
    interpreter = Interpreter(*deploy_paths(prefix))
    try:
        result = interpreter.run(golden.inputs)
    except CalibrationError as error:  # an accumulator that overflows: the message names the layer
        return [LayerVerdict(name="(run)", is_ok=False, reason=str(error))]
    return verdicts(golden, result)


def verdicts(golden: Golden, result: Result) -> list[LayerVerdict]:
    """Compares digests."""
    edges, sums = digests(result), sum_digests(result)
    names = dict.fromkeys((*edges, *sums, *golden.edges, *golden.sums))
    return [_verdict(name, golden, edges.get(name), sums.get(name)) for name in names]


def _verdict(name: str, golden: Golden, edges: str | None, sums: str | None) -> LayerVerdict:
    reason = ""
    if edges is None and sums is None:
        reason = "is in the golden file, but not quantized in the deploy pair"
    elif name not in golden.edges and name not in golden.sums:
        reason = "is quantized in the deploy pair, but not in the golden file"
    elif edges != golden.edges.get(name):
        reason = "the integers of its inputs differ"
    elif sums != golden.sums.get(name):
        reason = "its inputs are equal, its accumulator differs"
    return LayerVerdict(name=name, is_ok=not reason, reason=reason)


def _digest(*arrays: NDArray[np.int32]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
    return digest.hexdigest()


def _part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _file(prefix: PathLike, name: str) -> Path:
    """SPEC 11.1: a prefix that ends in a path separator is a folder of bare names."""
    text = os.fspath(prefix)
    is_folder = not text or text.endswith(tuple(filter(None, (os.sep, os.altsep))))
    return Path(f"{text}{name}" if is_folder else f"{text}_{name}")
