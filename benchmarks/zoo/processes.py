"""Runs each architecture in its own process, so that a crash or an endless run affects no other architecture."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .outcome import Outcome, read_outcome


def run_all(names: Sequence[str], folder: Path, jobs: int, timeout: float, report: Callable[[Outcome], None]) -> None:
    """Runs the architectures ``names``, ``jobs`` at a time; each outcome is in ``folder`` before ``report`` gets it.

    Args:
      names: Keys of ``ARCHITECTURES``.
      folder: The folder for ``<name>.json``.
      jobs: Number of processes, one thread each.
      timeout: Seconds after which a process is ended.
      report: Called with each outcome, in the order of completion.
    """
    # The server imports the libraries once and runs no operation; every process is a fork of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.zoo.worker"])
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(_run_one, context, name, folder / f"{name}.json", timeout) for name in names]
        for one in as_completed(runs):
            report(one.result())


def _run_one(context: multiprocessing.context.ForkServerContext, name: str, path: Path, timeout: float) -> Outcome:
    path.unlink(missing_ok=True)
    process = context.Process(target=_work, args=(name, path))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        Outcome(name=name, stage="process", error=f"It had not ended after {timeout:.0f} s.").write(path)
    elif not path.is_file():
        Outcome(name=name, stage="process", error=f"The process died: {_cause(process.exitcode)}.").write(path)
    return read_outcome(path)


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


def _work(name: str, path: Path) -> None:
    from .worker import work  # here: the parent needs neither torch nor the libraries

    os.environ["OMP_NUM_THREADS"] = "1"
    work(name, path)
