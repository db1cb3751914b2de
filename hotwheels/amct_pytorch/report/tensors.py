"""LayerTensors: the result of every layer, from a run of one of the saved files or from a folder of dumps."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import PathLike, check_input_file, output_path
from ..files.arrays import read_npy
from ..files.limits import DUMP, DUMP_TEXT, read_limited
from ..files.naming import error_in_file
from ..files.seal import DEPLOY_MODEL, FAKE_QUANT_MODEL, FLOAT_MODEL, check_prefix
from ..onnx_io.exposed import expose_results, first_results, layer_of, zero_points
from ..oracle.digest import deploy_paths
from ..oracle.interpreter import Interpreter
from .input_batches import batches_for
from .runtime_session import feeds_of, run_session

KINDS = ("float", "fake_quant", "real_quant", "onnxruntime")
_DUMP = re.compile(r"(?P<layer>.+)_output(?P<index>\d+)(?P<shape>(_\d+)*?)(_pytorch)?\.(npy|float|txt)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerTensors:
    """The results of one side of a comparison.

    Attributes:
      title: Name of the side, for messages.
      results: First result of each layer, float64, in the order in which they were computed.
      steps: By layer, as far as known: the step of the grid on which a reader quantizes the layer's result.
      is_exact: Whether equal parameters must give equal values, as for real_quant and dumps.
      is_rounded: Whether the results are already rounded to that grid.
      has_shifts: Whether accumulators were rounded by shift bits (spec 4.6).
    """

    title: str
    results: Mapping[str, NDArray[Any]]
    steps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_exact: bool = False
    is_rounded: bool = False
    has_shifts: bool = False


def load_tensors(
    source: str, prefix: PathLike | None, inputs: Sequence[NDArray[Any]], *, is_limited: bool = True
) -> LayerTensors:
    """Returns the tensors of ``source``: a folder, or one of ``KINDS``, as ``<kind>:<prefix>`` or with ``prefix``.

    Without ``is_limited`` the files are trusted: a run may take any memory and time (docs/security.md).

    Raises:
      ConfigError: ``source`` is neither, the prefix or the inputs are missing, or the folder has no dumps.
      FileNotFoundError: A file of the prefix is missing.
    """
    kind, _, own = source.partition(":")
    if kind not in KINDS or (not own and Path(source).is_dir()):
        return read_dumps(source)
    where = own or prefix
    if where is None:
        raise ConfigError(f"'{source}' needs the prefix of the saved files: {kind}:out/net, or --prefix out/net.")
    if not inputs:
        raise ConfigError(f"'{source}' has to be run: give --input FILE.npy, once for each input of the model.")
    check_prefix(where)
    batches = batches_for(output_path(where, _FILES[kind]), inputs)
    return _joined([_RUNS[kind](where, batch, is_limited) for batch in batches])


def read_dumps(folder: PathLike) -> LayerTensors:
    """Returns the first output of each layer from the files of ``enable_dump`` (spec 11.8).

    Raises:
      ConfigError: There is no such folder, it has no such file, or a file does not hold the shape in its name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is neither a folder of dumps nor one of {', '.join(KINDS)}.")
    files = sorted(folder.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
    found = {path: match for path in files if (match := _DUMP.fullmatch(path.name)) and match["index"] == "0"}
    if not found:
        raise ConfigError(f"'{folder}' holds no file called <layer>_output<i>_<shape>_pytorch.npy, .float or .txt.")
    results = _Dumps({match["layer"]: (path, match["shape"]) for path, match in found.items()})
    return LayerTensors(title=str(folder), results=results, is_exact=True)


@contextlib.contextmanager
def on_disk(tensors: LayerTensors) -> Iterator[LayerTensors]:
    """Returns a context with ``tensors``, whose results are in a temporary folder: two runs need not be in memory."""
    if isinstance(tensors.results, _Dumps):
        yield tensors
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {layer: (Path(folder) / f"{at}.npy", "") for at, layer in enumerate(tensors.results)}
        for layer, (path, _) in files.items():
            np.save(path, tensors.results[layer], allow_pickle=False)
        yield dataclasses.replace(tensors, results=_Dumps(files))


def _joined(runs: Sequence[LayerTensors]) -> LayerTensors:
    """Returns the results of several batches as those of one, along the first axis."""
    first = runs[0]
    if len(runs) == 1:
        return first
    layers = {layer: [np.atleast_1d(one.results[layer]) for one in runs] for layer in first.results}
    return dataclasses.replace(first, results={layer: np.concatenate(parts) for layer, parts in layers.items()})


class _Doubles(Mapping[str, NDArray[Any]]):
    """Arrays by layer, each as float64 when it is asked for: two sides as float64 would be twice the memory."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str]) -> None:
        """Takes the ``arrays`` by name, and the name of each layer."""
        self._arrays, self._names = arrays, names

    def __getitem__(self, layer: str) -> NDArray[Any]:
        return np.asarray(self._arrays[self._names[layer]], dtype=np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Dumps(Mapping[str, NDArray[Any]]):
    """Dumped tensors by layer, each read when it is asked for: a folder may hold more than the memory."""

    def __init__(self, files: Mapping[str, tuple[Path, str]]) -> None:
        self._files = files

    def __getitem__(self, layer: str) -> NDArray[Any]:
        return _read(*self._files[layer])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _read(path: Path, shape: str) -> NDArray[Any]:
    sizes = [int(size) for size in shape.split("_")[1:]]
    try:
        if path.suffix == ".npy":
            array = read_npy(path, "Dump", limit=DUMP)
            return array.reshape(sizes if sizes else array.shape).astype(np.float64)
        content = read_limited(check_input_file(path, "Dump"), DUMP_TEXT).decode("ascii")
        return np.loadtxt(io.StringIO(content), skiprows=int(path.suffix == ".txt"), ndmin=1).reshape(sizes)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        text = " ".join(str(error).split())
        raise ConfigError(f"'{path}' does not hold a tensor of shape {sizes}: {text:.300}") from error


def _run_oracle(prefix: PathLike, inputs: Sequence[NDArray[Any]], is_limited: bool) -> LayerTensors:
    model, parameters = deploy_paths(prefix)
    interpreter = Interpreter(model, parameters, is_limited=is_limited)
    graph = interpreter.pair.graph
    with error_in_file(model):
        found = interpreter.run(feeds_of(list(graph.inputs), inputs), keep_values=True, keep_integers=False).values
    nodes = [node for node in graph.nodes if node.outputs]
    first = first_results([(node.name, node.inputs, node.outputs) for node in nodes], graph.outputs)
    names = {node.outputs[0]: node.name for node in nodes}
    results = _Doubles(found, {layer: names[value] for layer, value in first.items()})
    makers = {node.outputs[0]: layer_of(node.name) for node in graph.nodes if node.outputs}
    steps: dict[str, float] = {}
    for node in graph.nodes:
        layer = interpreter.pair.layers.get(node.name)
        for at, grid in (layer.grids if layer else {}).items():
            steps.setdefault(makers.get(node.inputs[at], ""), grid.scale)
    shifts = any(any(layer.shift_bit) for layer in interpreter.pair.layers.values())
    return LayerTensors(title=f"real_quant:{prefix}", results=results, steps=steps, is_exact=True, has_shifts=shifts)


def _run_float(prefix: PathLike, inputs: Sequence[NDArray[Any]], is_limited: bool) -> LayerTensors:
    return _run_onnx(output_path(prefix, FLOAT_MODEL), inputs, is_limited, "float")


def _run_fake_quant(prefix: PathLike, inputs: Sequence[NDArray[Any]], is_limited: bool) -> LayerTensors:
    return _run_onnx(output_path(prefix, FAKE_QUANT_MODEL), inputs, is_limited, "fake_quant")


def _run_onnx(path: Path, inputs: Sequence[NDArray[Any]], is_limited: bool, title: str) -> LayerTensors:
    exposed = expose_results(path)
    names = list(exposed.results.values())
    values = run_session(path, exposed.content, names, inputs, is_optimized=False, is_limited=is_limited)
    results = _Doubles(dict(zip(exposed.results, values, strict=True)), {layer: layer for layer in exposed.results})
    return LayerTensors(title=f"{title}:{path}", results=results, steps=exposed.steps)


def _run_optimized(prefix: PathLike, inputs: Sequence[NDArray[Any]], is_limited: bool) -> LayerTensors:
    """Returns the results of the fake_quant model in an optimized session.

    onnxruntime may fuse nodes there, so only the integers between them can be read.
    """
    path = output_path(prefix, FAKE_QUANT_MODEL)
    exposed, offsets = expose_results(path, only_quantized=True), zero_points(path)
    names = list(exposed.results.values())
    values = run_session(path, exposed.content, names, inputs, is_optimized=True, is_limited=is_limited)
    results = {
        layer: (integers.astype(np.float64) - offsets[name]) * exposed.steps[layer]
        for (layer, name), integers in zip(exposed.results.items(), values, strict=True)
    }
    return LayerTensors(title=f"onnxruntime:{path}", results=results, steps=exposed.steps, is_rounded=True)


_FILES = {
    "float": FLOAT_MODEL,
    "fake_quant": FAKE_QUANT_MODEL,
    "real_quant": DEPLOY_MODEL,
    "onnxruntime": FAKE_QUANT_MODEL,
}
_RUNS = {"float": _run_float, "fake_quant": _run_fake_quant, "real_quant": _run_oracle, "onnxruntime": _run_optimized}
