"""Runs torch's TorchScript-based exporter, which names ONNX nodes after the modules they come from."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.onnx.errors import UnsupportedOperatorError

from ..errors import ExportError
from ..log import get_logger

_log = get_logger(__name__)
DEFAULT_OPSET = 13
_HIGHEST_OPSET = 20  # what the exporter knows


def export_onnx(module: nn.Module, inputs: tuple[Any, ...], setting: Mapping[str, Any]) -> bytes:
    """Returns ``module``, run once with ``inputs`` in its present training flag, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without an ``opset_version`` the lowest one from 13
    on that knows all operations is taken.

    Raises:
      ExportError: An operation has no ONNX form.
    """
    inputs = (*inputs, {})  # a dict in the last place would be taken for keyword arguments
    opsets = [setting["opset_version"]] if "opset_version" in setting else range(DEFAULT_OPSET, _HIGHEST_OPSET + 1)
    refusal: UnsupportedOperatorError | None = None
    for opset in opsets:
        try:
            return _export(module, inputs, {**setting, "opset_version": opset})
        except UnsupportedOperatorError as error:
            refusal = refusal or error
            _log.debug("Opset %d does not do: %s", opset, error)
    raise ExportError(f"The model cannot be exported to ONNX: {refusal}") from refusal


def _export(module: nn.Module, inputs: tuple[Any, ...], setting: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    # What the exporter says about tracing, deprecation and its graphs speaks to its direct user.
    chatter = contextlib.nullcontext() if setting.get("verbose") else contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), torch.no_grad(), chatter:
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, **setting)
    return file.getvalue()
