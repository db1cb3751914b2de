"""Leak run: cycles from a configuration to verified files leave no memory, open files, threads or temporary files.

``python -m tests.fuzz.leaks --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.oracle.digest import verify
from tests.fuzz.acts import Net, X
from tests.support.dynamic_nets import SmallResNet

_WARM = 0.25  # share of the cycles in front of the first count: caches fill, allocators grow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
    """What a process holds.

    Attributes:
      memory: KiB that are resident.
      files: Open descriptors.
      threads: Threads of the system.
      python_threads: Threads of Python.
      modules: Modules of torch that are alive.
      temporaries: Files and folders in the folder for temporary files.
    """

    memory: int
    files: int
    threads: int
    python_threads: int
    modules: int
    temporaries: int

    @staticmethod
    def now() -> Count:
        """Counts after a collection of garbage."""
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return Count(
            memory=int(status["VmRSS"].split()[0]),
            files=len(os.listdir("/proc/self/fd")),
            threads=int(status["Threads"]),
            python_threads=threading.active_count(),
            modules=sum(isinstance(one, torch.nn.Module) for one in gc.get_objects()),
            temporaries=len(os.listdir(tempfile.gettempdir())),
        )


def fx_cycle() -> None:
    """Configures, quantizes, calibrates, saves, verifies and restores a model of the FX path."""
    amct.create_quant_config_fx("config.json", Net(1))
    model = amct.create_quant_model_fx("config.json", Net(1))
    amct.enable_quantization(model, calibration=True)
    model(X)
    amct.enable_quantization(model, fake_quant=True)
    amct.save_quant_model_fx(model, "out/net", X, golden_inputs=X)
    assert all(one.is_ok for one in verify("out/net"))
    torch.save(model.state_dict(), "net.pt")
    amct.restore_quant_model_fx("config.json", Net(1), "net.pt")


def dynamic_cycle() -> None:
    """Configures, quantizes, calibrates and saves a model of the dynamic path."""
    amct.create_quant_config("dynamic.json", SmallResNet(), X)
    amct.quantize_model("dynamic.json", "modified.onnx", "record.txt", SmallResNet(), X)(X)
    amct.save_model("modified.onnx", "record.txt", "out/dynamic")


def refused_cycle() -> None:
    """Is refused: errors hold their frames, and so all that is in them, as long as they are held."""
    Path("bad.json").write_text('{"conv": {}}')
    try:
        amct.create_quant_model_fx("bad.json", Net(1))
    except amct.ConfigError:
        return
    raise AssertionError


CYCLES: dict[str, Callable[[], None]] = {"fx": fx_cycle, "dynamic": dynamic_cycle, "refused": refused_cycle}


def growth(cycle: Callable[[], None], count: int) -> tuple[Count, Count]:
    """Returns what the process holds after the first cycles and after ``count``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warm = max(2, int(count * _WARM))
        for _ in range(warm):
            cycle()
        before = Count.now()
        for _ in range(count - warm):
            cycle()
        return before, Count.now()


def leaks(before: Count, after: Count, cycles: int) -> list[str]:
    """Returns what has grown with the number of cycles; 16 KiB of memory a cycle, and 24 MiB, are noise."""
    found = [
        f"{name}: {getattr(before, name)} -> {getattr(after, name)}"
        for name in ("files", "threads", "python_threads", "modules", "temporaries")
        if getattr(after, name) > getattr(before, name)
    ]
    if after.memory - before.memory > 24 * 1024 + 16 * cycles:
        found.append(f"memory: {before.memory >> 10} -> {after.memory >> 10} MiB")
    return found


def main() -> int:
    """Runs the cycles; returns 1 if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CYCLE", help=f"of {', '.join(CYCLES)}; default all")
    parser.add_argument("--cycles", type=int, default=200)
    args = parser.parse_args()
    has_grown = False
    for name in args.names or CYCLES:
        before, after = growth(CYCLES[name], args.cycles)
        found = leaks(before, after, args.cycles)
        has_grown |= bool(found)
        memory = f"{before.memory >> 10} -> {after.memory >> 10} MiB, {after.files} files, {after.threads} threads"
        sys.stdout.write(f"{name:10} {args.cycles} cycles, {memory}: {'; '.join(found) or 'nothing has grown'}\n")
        sys.stdout.flush()
    return int(has_grown)


if __name__ == "__main__":
    os.environ.setdefault("AMCT_LOG_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tempfile.tempdir = str(Path(folder) / "temporary")  # of this process alone
        Path(tempfile.tempdir).mkdir()
        sys.exit(main())
