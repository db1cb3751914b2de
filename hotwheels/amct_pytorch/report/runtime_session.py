"""Runs a saved ONNX model in onnxruntime, within limits of memory and time (docs/security.md)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ModelFileError
from ..files.limits import RUNTIME_MEMORY, RUNTIME_SECONDS

try:
    import resource
except ImportError:  # Windows: memory has no limit there
    resource = None  # type: ignore[assignment]

_THREAD = 64 << 20  # a thread's stack and its part of the heap


def run_session(
    path: Path,
    content: bytes,
    names: Sequence[str],
    inputs: Sequence[NDArray[Any]],
    *,
    is_optimized: bool,
    is_limited: bool,
) -> list[NDArray[Any]]:
    """Returns the values ``names`` of the model ``content`` on ``inputs``; ``path`` is its file, for messages.

    Raises:
      ConfigError: onnxruntime is not installed, or the number of inputs differs.
      ModelFileError: onnxruntime cannot run the model, or not within the limits.
    """
    try:
        import onnxruntime  # an optional requirement (extra "runtime")
    except ImportError as error:
        raise ConfigError("onnxruntime is not installed: pip install 'hotwheels-amct-pytorch[runtime]'.") from error
    options, call = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    if not is_optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = call.log_severity_level = 4
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        call.terminate = True

    try:
        with _limits(RUNTIME_MEMORY.most + 4 * len(content), stop) if is_limited else contextlib.nullcontext():
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            feeds = feeds_of([one.name for one in session.get_inputs()], inputs)
            return [np.asarray(one) for one in session.run(names, feeds, call)]
    except ConfigError:
        raise
    except Exception as error:  # onnxruntime's errors have no class of their own
        text = " ".join(str(error).split())
        if is_late.is_set():
            text = f"it takes more than {RUNTIME_SECONDS.most} s; trust your own files with --unlimited"
        elif is_limited and ("allocat" in text or isinstance(error, MemoryError)):
            text += f"; a run may take {RUNTIME_MEMORY.most:,} bytes, trust your own files with --unlimited"
        raise ModelFileError(f"'{path}' cannot be run in onnxruntime: {text:.500}.") from error


def feeds_of(names: Sequence[str], inputs: Sequence[NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Returns the inputs by name; ConfigError if there are more or fewer."""
    if len(names) != len(inputs):
        raise ConfigError(f"The model has the inputs {names}; --input is given {len(inputs)} times.")
    return dict(zip(names, inputs, strict=True))


@contextlib.contextmanager
def _limits(memory: int, stop: Any) -> Iterator[None]:
    """A context in which the process may take ``memory`` bytes more; calls ``stop`` when the time is over."""
    timer = threading.Timer(RUNTIME_SECONDS.most, stop)
    timer.daemon = True
    timer.start()
    try:
        with _memory_limit(memory):
            yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _memory_limit(memory: int) -> Iterator[None]:
    status = Path("/proc/self/status")
    if resource is None or not status.is_file():  # no Linux
        yield
        return
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    present = (int(fields["VmData"].split()[0]) + int(fields["VmStk"].split()[0])) << 10
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = present + memory + _THREAD * (os.cpu_count() or 1)
    given = [one for one in before if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(wanted, *given), before[1]) if given else (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
