"""Runs torch's TorchScript-based exporter, which names ONNX nodes after the modules they come from."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from ...errors import AmctError, ExportError
from ...log import get_logger
from ...onnx_io.opset import DEFAULT_OPSET, OpsetTooLow
from ...torch_torchscript import TracerWarning, UnsupportedOperator, export_torchscript
from ..calls.fused_attention import without_fused_attention
from .symbolics import own_symbolics

_log = get_logger(__name__)
# torch's exporter refuses to run in two threads at once, and classes are changed during an export.
export_lock = threading.RLock()


def export_onnx(module: nn.Module, inputs: tuple[Any, ...], setting: Mapping[str, Any]) -> bytes:
    """Returns ``module``, run with ``inputs`` in its present training flag, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without ``opset_version``, the lowest opset from 13 on
    that has all operations is used.

    Raises:
      ExportError: The call with ``inputs`` fails, or an operation has no ONNX form.
    """
    opset = setting.get("opset_version", DEFAULT_OPSET)
    while True:
        try:
            return export_once(module, inputs, {**setting, "opset_version": opset})
        except OpsetTooLow as error:
            if "opset_version" in setting:
                raise ExportError(f"The model cannot be exported to ONNX: {error}") from error
            _log.debug("Opset %d is taken: %s", error.opset, error)
            opset = error.opset


def export_once(module: nn.Module, inputs: tuple[Any, ...], setting: Mapping[str, Any]) -> bytes:
    """Returns ``module`` as ONNX bytes at ``setting["opset_version"]``; see `export_onnx`.

    Raises:
      ExportError: The call with ``inputs`` fails, or an operation has no ONNX form.
      OpsetTooLow: An operation has an ONNX form at a higher opset.
    """
    inputs = (*inputs, {})  # torch takes the last argument for keyword arguments if it is a dict
    try:
        return _export(module, inputs, dict(setting))
    except UnsupportedOperator as error:
        needed = _needed_opset(error)
        if needed is not None and needed > setting["opset_version"]:
            raise OpsetTooLow(needed, str(error)) from error
        raise ExportError(f"The model cannot be exported to ONNX: {error}") from error
    except AmctError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise ExportError(f"The model cannot be exported to ONNX with this input_data: {error}") from error


def _export(module: nn.Module, inputs: tuple[Any, ...], setting: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with (
        export_lock,
        warnings.catch_warnings(),
        torch.no_grad(),
        without_fused_attention(),
        own_symbolics(),
        no_checkpoints(),
    ):
        # No warnings of values that become constants: the saved model is compared with the original instead.
        warnings.simplefilter("ignore", TracerWarning)
        # It says that an initial state would be fixed for a batch size; the states here are computed from the inputs.
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        # A node that is not folded is right as it is.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        export_torchscript(module, inputs, file, **setting)
    return file.getvalue()


@contextlib.contextmanager
def no_checkpoints() -> Iterator[None]:
    """Returns a context in which ``torch.utils.checkpoint`` just calls its function, as nothing is differentiated."""
    call = staticmethod(lambda function, _keeps_random, *args: function(*args))
    is_outermost = "apply" not in CheckpointFunction.__dict__
    setattr(CheckpointFunction, "apply", call)  # noqa: B010 - mypy refuses to assign to a method
    try:
        yield
    finally:
        if is_outermost:
            del CheckpointFunction.apply  # that of its base class is in force again


def _needed_opset(error: UnsupportedOperator) -> int | None:
    """Returns the opset that the operation needs, from the exporter's text; None if the text names none."""
    found = re.search(r"was added in version (\d+)", str(error))
    return int(found.group(1)) if found else None
