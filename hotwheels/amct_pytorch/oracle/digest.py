"""Golden files: inputs and the oracle's results for them, ``<prefix>_golden.npz``; and their verification."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, ConfigError, RecordError, UnsupportedModelError
from ..files import FileSet, PathLike, output_path
from ..files.arrays import read_npz
from ..files.limits import ARCHIVE, GOLDEN_VALUES
from ..files.naming import error_in_file
from ..files.seal import DEPLOY_MODEL, GOLDEN, PARAMETERS_BINARY, PARAMETERS_TEXT, check_prefix, check_whole
from .golden_tensor import GoldenTensor, first_difference
from .interpreter import Interpreter, Result
from .real_quant_check import RealQuantIntegers, check_against_real_quant

# Number of elements whose values a golden file holds; ResNet-50 on one image of 224 x 224 has 39 million, 52 MB when
# compressed. If there are more, the file holds only the digests of the largest tensors.
MOST_VALUES = GOLDEN_VALUES.most
_FORMAT, _VERSION, _INPUT = "golden.version", 2, "input:"
_EDGES, _SUMS, _OUTPUT = "input", "accumulator", "output"  # kinds of tensors
_PARTS = ("shape", "blocks", "values")


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """The key of a tensor in a golden file.

    Attributes:
      layer: Name of a layer or of a graph output.
      kind: ``input``: integers of a quantized input; ``accumulator``: sums of a CUBE operation; ``output``.
      index: Number of the quantized input.
    """

    layer: str
    kind: str
    index: int = 0

    def __str__(self) -> str:
        """Returns the name of the tensor for messages."""
        return f"{self.kind} {self.index}" if self.kind == _EDGES else self.kind


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """The content of a golden file.

    Attributes:
      inputs: Graph inputs by name.
      tensors: The results for these inputs.
    """

    inputs: Mapping[str, NDArray[Any]]
    tensors: Mapping[Place, GoldenTensor]

    @property
    def nbytes(self) -> int:
        """The memory of all arrays."""
        kept = (one for tensor in self.tensors.values() for one in (tensor.blocks, tensor.values) if one is not None)
        return sum(one.nbytes for one in (*self.inputs.values(), *kept))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerVerdict:
    """Whether one layer computes the values of the golden file; ``reason`` is empty if it does."""

    name: str
    is_ok: bool
    reason: str = ""


def tensors_of(result: Result) -> dict[Place, NDArray[Any]]:
    """Returns all tensors of a golden file: inputs and accumulator of each layer, and the outputs of the graph."""
    found: dict[Place, NDArray[Any]] = {}
    for name in dict.fromkeys((*result.edges, *result.sums)):
        for index, array in enumerate(result.edges.get(name, ())):
            found[Place(layer=name, kind=_EDGES, index=index)] = array
        if name in result.sums:
            found[Place(layer=name, kind=_SUMS)] = result.sums[name]
    outputs = {name: array for name, array in result.outputs.items() if array.dtype == np.float32}
    return found | {Place(layer=name, kind=_OUTPUT): array for name, array in outputs.items()}


def write_golden(path: PathLike, inputs: Mapping[str, NDArray[Any]], result: Result, files: FileSet) -> None:
    """Adds a golden file with ``inputs`` and the ``result`` for them to ``files``."""
    tensors = tensors_of(result)
    kept = _kept(tensors)
    arrays: dict[str, Any] = {_FORMAT: np.array(_VERSION)}
    arrays |= {f"{_INPUT}{name}": np.asarray(array) for name, array in inputs.items()}
    for place, array in tensors.items():
        golden = GoldenTensor.of(array, keeps_values=place in kept)
        parts = {"shape": np.array(golden.shape, dtype=np.int64), "blocks": golden.blocks, "values": golden.values}
        arrays |= {_key(place, part): value for part, value in parts.items() if value is not None}
    ARCHIVE.check(sum(array.nbytes for array in arrays.values()), path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    files.write_bytes(path, buffer.getvalue())


def make_golden(
    prefix: PathLike, inputs: Sequence[NDArray[Any]], files: FileSet, real: RealQuantIntegers | None = None
) -> None:
    """Runs the deploy pair of ``prefix`` in ``files`` on ``inputs``, in the graph's order, and adds the golden file.

    ``real``: what real_quant in PyTorch computes on the same inputs; the golden file holds these integers.

    Raises:
      ExportError: The pair computes other integers.
      UnsupportedModelError: An operation has no kernel in the oracle, as random ones.
      ConfigError: The number of inputs differs from that of the graph.
      CalibrationError: An accumulator exceeds int32.
    """
    model, parameters = (output_path(prefix, name) for name in (DEPLOY_MODEL, PARAMETERS_TEXT))
    try:
        interpreter = Interpreter(files.staged(model), files.staged(parameters), is_limited=False)
    except UnsupportedModelError as error:
        reason = str(error).removeprefix(f"'{files.staged(model)}': ")
        raise UnsupportedModelError(
            f"'{golden_path(prefix)}' cannot be written. {reason} Leave out golden_inputs (amct quantize: --no-verify);"
            " nothing was written."
        ) from error
    names = list(interpreter.pair.graph.inputs)
    if len(names) != len(inputs):
        raise ConfigError(f"The deploy model has the inputs {names}; {len(inputs)} golden inputs are given.")
    feeds = dict(zip(names, inputs, strict=True))
    result = interpreter.run(feeds)
    if real is not None:
        check_against_real_quant(result, real)
    write_golden(golden_path(prefix), feeds, result, files)


def read_golden(path: PathLike, *, with_values: bool = True) -> Golden:
    """Returns the content of a golden file; without values its tensors are shapes and digests, which are read faster.

    Raises:
      FileNotFoundError: There is no such file.
      RecordError: The file is no golden file.
    """
    arrays = read_npz(path, "golden file", RecordError, ARCHIVE, lambda name: with_values or not _is_values(name))
    try:
        if int(arrays.pop(_FORMAT)) != _VERSION:
            raise ValueError("it is of another version; save the model with golden_inputs again.")
        inputs = {name.removeprefix(_INPUT): arrays.pop(name) for name in list(arrays) if name.startswith(_INPUT)}
        values = sum(array.size for key, array in arrays.items() if _is_values(key))
        GOLDEN_VALUES.check(values, path, RecordError)
        return Golden(inputs=inputs, tensors=dict(_tensors(arrays)))
    except RecordError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"'{path}' is not a golden file: {error}") from error


def golden_path(prefix: PathLike) -> Path:
    """Returns ``<prefix>_golden.npz``."""
    return output_path(prefix, GOLDEN)


def deploy_paths(prefix: PathLike) -> tuple[Path, Path]:
    """Returns the paths of deploy model and parameter file of ``prefix``; the binary form if there is no text."""
    text, binary = output_path(prefix, PARAMETERS_TEXT), output_path(prefix, PARAMETERS_BINARY)
    return output_path(prefix, DEPLOY_MODEL), binary if binary.is_file() and not text.is_file() else text


def verify(prefix: PathLike, *, is_limited: bool = True) -> list[LayerVerdict]:
    """Runs the deploy pair of ``prefix`` on its golden inputs and returns a verdict on every layer, in graph order.

    Without ``is_limited`` the files are trusted: the run may take any memory and time (docs/security.md).

    If the run ends in an error (an accumulator overflows), the verdicts on the layers before are followed by a verdict
    named ``(run)`` with the error.

    Raises:
      FileNotFoundError: A file is missing.
      RecordError: The files do not parse, do not belong together, or lack one that the manifest lists.
      UnsupportedModelError: The run would exceed a limit, or an operator has no kernel.
    """
    path = _existing(golden_path(prefix))
    model, parameters = deploy_paths(prefix)
    with ThreadPoolExecutor(1) as pool:  # digests of large files, beside the parsing of the models
        check = pool.submit(check_prefix, prefix)
        try:
            interpreter = Interpreter(model, parameters, is_limited=is_limited, is_checked=True)
        finally:
            is_sealed = check.result()
            check_whole(prefix)
    # Of a file that is as it was saved the digests are enough, as long as nothing differs.
    golden = read_golden(path, with_values=not is_sealed)
    with error_in_file(model):
        result, error = interpreter.run_to_error(golden.inputs, held=golden.nbytes)
    found = _verdicts_to_error(golden, result, error)
    if all(one.is_ok for one in found) or not is_sealed:
        return found
    return _verdicts_to_error(read_golden(path), result, error)


def _verdicts_to_error(golden: Golden, result: Result, error: CalibrationError | None) -> list[LayerVerdict]:
    if error is None:
        return verdicts(golden, result)
    seen = {place.layer for place in tensors_of(result)}
    done = [one for one in verdicts(golden, result) if one.name in seen]
    return [*done, LayerVerdict(name="(run)", is_ok=False, reason=str(error))]


def _existing(golden: Path) -> Path:
    if not golden.exists():
        msg = f"Golden file '{golden}' does not exist: a save with golden_inputs=..., or 'amct quantize', writes it."
        raise FileNotFoundError(msg)
    return golden


def verdicts(golden: Golden, result: Result) -> list[LayerVerdict]:
    """Returns a verdict on each layer: whether ``result`` equals the golden file."""
    found = tensors_of(result)
    layers: dict[str, list[Place]] = {}
    for place in dict.fromkeys((*found, *golden.tensors)):
        layers.setdefault(place.layer, []).append(place)
    return [_verdict(name, places, golden.tensors, found) for name, places in layers.items()]


def _verdict(
    name: str, places: list[Place], golden: Mapping[Place, GoldenTensor], found: Mapping[Place, NDArray[Any]]
) -> LayerVerdict:
    reasons = (_reason(place, golden.get(place), found.get(place)) for place in places)
    reason = next(filter(None, reasons), "")
    return LayerVerdict(name=name, is_ok=not reason, reason=reason)


def _reason(place: Place, golden: GoldenTensor | None, found: NDArray[Any] | None) -> str:
    if found is None:
        return f"{place} is in the golden file, but not computed by the deploy pair"
    if golden is None:
        return f"{place} is computed by the deploy pair, but not in the golden file"
    if found.shape != golden.shape:
        return f"{place} has the shape {list(found.shape)}, expected {list(golden.shape)}"
    difference = first_difference(golden, found)
    return "" if difference is None else f"{place} {difference}"


def _kept(tensors: Mapping[Place, NDArray[Any]]) -> set[Place]:
    """Returns the tensors whose values are stored: the smallest ones, up to `MOST_VALUES` elements in all."""
    kept, room = set(), MOST_VALUES
    for place, array in sorted(tensors.items(), key=lambda item: item[1].size):
        room -= array.size
        if room < 0:
            break
        kept.add(place)
    return kept


def _key(place: Place, part: str) -> str:
    return f"{place.kind}/{place.index}/{part}/{place.layer}"


def _is_values(key: str) -> bool:
    """Whether an array of a golden file holds the values of a tensor."""
    return key.split("/", 3)[2:3] == ["values"]


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Place, GoldenTensor]]:
    parts: dict[Place, dict[str, NDArray[Any]]] = {}
    for key, array in arrays.items():
        kind, index, part, layer = key.split("/", 3)
        parts.setdefault(Place(layer=layer, kind=kind, index=int(index)), {})[part] = array
    for place, one in parts.items():
        shape, blocks, values = (one.get(part) for part in _PARTS)
        if shape is None or blocks is None:
            raise ValueError(f"it lacks parts of {place} of '{place.layer}'.")
        tensor = GoldenTensor(shape=_sizes(shape), blocks=blocks, values=values)
        if not tensor.is_consistent:
            raise ValueError(f"shape, digests and values of {place} of '{place.layer}' do not fit together.")
        yield place, tensor


def _sizes(shape: NDArray[Any]) -> tuple[int, ...]:
    sizes = tuple(map(int, shape)) if shape.ndim == 1 and shape.dtype.kind == "i" else (-1,)
    if any(one < 0 for one in sizes):
        raise ValueError(f"a shape is {shape.tolist()!r:.80}.")
    return sizes
