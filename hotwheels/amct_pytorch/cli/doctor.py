"""``amct doctor``: what is installed, what is missing, what that costs, and the line that installs it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator

import click
import torch

from .. import torch_names
from ..core import native
from ..proto import outdated_modules
from ..version import TESTED_TORCH, __version__
from .command import DIFFERS, OK, command

_REQUIRED = ("numpy", "onnx", "onnx-ir", "protobuf", "pyyaml", "tqdm", "click", "interval")
# Distribution -> what is lost without it.
_OPTIONAL = {
    "onnxruntime": "the float ONNX model is checked by our own interpreter, which is slow; compare has no ONNX side",
    "onnxscript": "calls that torch's TorchScript exporter refuses cannot be saved",
    "pillow": "images as -i",
    "timm": "MODEL as timm:NAME",
    "torchvision": "MODEL as torchvision:NAME",
}
_MODULES = {"pillow": "PIL"}  # where the module is not called like the distribution
_VARIABLES = (
    *("AMCT_LOG_LEVEL", "AMCT_LOG_FILE_LEVEL", "AMCT_STRICT", "AMCT_QUANTIZER_MODULES", "AMCT_CAPACITY"),
    native.SWITCH,
)


@dataclasses.dataclass(frozen=True)
class _Finding:
    """One line.

    Attributes:
      what: The thing.
      found: Its version or state.
      remedy: What is lost and the line that helps; empty if nothing is to be done.
      is_needed: Whether nothing works without it.
    """

    what: str
    found: str
    remedy: str = ""
    is_needed: bool = False


@command("doctor", example="amct doctor")
def COMMAND() -> int:
    """Shows versions and what is missing, with the line that installs it. The exit code is 1 if something needed is."""
    findings = list(_findings())
    width = max(len(one.what) for one in findings)
    for one in findings:
        mark = "!!" if one.remedy and one.is_needed else "- " if one.remedy else "ok"
        click.echo(f"{mark} {one.what:{width}}  {one.found}")
        if one.remedy:
            click.echo(f"   {'':{width}}  {one.remedy}")
    return DIFFERS if any(one.remedy and one.is_needed for one in findings) else OK


def _findings() -> Iterator[_Finding]:
    yield _Finding("amct", f"{__version__}, {os.path.dirname(os.path.dirname(__file__))}")
    yield _Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield _torch()
    yield from (_distribution(name, "", True) for name in _REQUIRED)
    yield from (_optional(name, lost) for name, lost in _OPTIONAL.items())
    yield _messages()
    yield _kernels()
    yield _program("C compiler", ("cc", "gcc", "clang"), "only needed to compile the kernels at installation")
    yield _program("graphviz", ("dot",), "only amct dot2pdf needs it")
    yield from (_Finding(name, os.environ[name]) for name in _VARIABLES if name in os.environ)


def _torch() -> _Finding:
    low, high = TESTED_TORCH
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    device = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "CPU"
    text = f"{torch.__version__}, {device}, {torch.get_num_threads()} threads"
    remedy = f"tested with torch >={low},<{high}: pip install 'torch>={low},<{high}'"
    is_tested = tuple(map(int, low.split("."))) <= found < tuple(map(int, high.split(".")))
    lost = torch_names.missing_names()
    if is_tested and lost:
        remedy = f"this build lacks {', '.join(lost)}: {remedy}"
    return _Finding("torch", text, "" if is_tested and not lost else remedy, not is_tested)


def _distribution(name: str, lost: str, is_needed: bool) -> _Finding:
    try:
        return _Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return _Finding(name, "missing", f"{f'without it: {lost}; ' if lost else ''}pip install {name}", is_needed)


def _optional(name: str, lost: str) -> _Finding:
    """Imports the package, too: a build for another torch is installed and cannot be imported."""
    found = _distribution(name, lost, False)
    if found.remedy:
        return found
    try:
        importlib.import_module(_MODULES.get(name, name))
    except Exception as error:  # a package may raise anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        remedy = f"it cannot be imported ({reason}); without it: {lost}; install its build for this torch"
        return dataclasses.replace(found, remedy=remedy)
    return found


def _messages() -> _Finding:
    outdated = outdated_modules()
    if not outdated:
        return _Finding("messages", "as in the .proto files")
    remedy = "fields of .cfg files and records are unknown: pip install -e . again"
    return _Finding("messages", f"{', '.join(outdated)} is older than its .proto file", remedy, True)


def _kernels() -> _Finding:
    if native.is_there():
        return _Finding("kernels", "compiled")
    remedy = (
        f"they {native.why_missing()}: calibration and training on the CPU take longer; apt install gcc libc6-dev and"
        " install this package again"
    )
    return _Finding("kernels", "missing", remedy)


def _program(what: str, names: tuple[str, ...], use: str) -> _Finding:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return _Finding(what, found)
    package = "graphviz" if what == "graphviz" else "gcc libc6-dev"
    return _Finding(what, "missing", f"{use}; apt install {package}")
