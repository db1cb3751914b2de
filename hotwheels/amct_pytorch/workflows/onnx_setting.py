"""``onnx_export_setting``: the keyword arguments of ``torch.onnx.export`` that a user may set (spec 2.4)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..log import get_logger
from .arguments import check_type

_log = get_logger(__name__)
_FUNCTION = "save_quant_model_fx"

_USED = ("input_names", "output_names", "dynamic_axes", "opset_version")  # the save decides all others itself
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "input_names": ((list, tuple), "a list of strings"),
    "output_names": ((list, tuple), "a list of strings"),
    "dynamic_axes": ((dict,), "a dict {name: {axis: label}} or {name: [axes]}"),
    "opset_version": ((int,), "an int"),
    "do_constant_folding": ((bool,), "a bool"),
    "keep_initializers_as_inputs": ((bool,), "a bool"),
    "verbose": ((bool,), "a bool"),
}


def check_setting(setting: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the keyword arguments in ``setting`` that the export uses; others give a WARNING.

    Raises TypeError for a wrong type or an unknown argument.
    """
    check_type(_FUNCTION, "onnx_export_setting", setting, (Mapping, type(None)), "a dict or None")
    known = inspect.signature(torch.onnx.export).parameters
    chosen: dict[str, Any] = {}
    for name, value in (setting or {}).items():
        if name not in known:
            raise TypeError(f"{_FUNCTION}: onnx_export_setting['{name}'] is no argument of torch.onnx.export.")
        checked = _checked(name, value) if value is not None else None
        if name in _USED and value is not None:
            chosen[name] = checked
        elif not _says_nothing(value, known[name].default):
            _log.warning("onnx_export_setting: '%s' is ignored, the save sets it itself.", name)
    return chosen


def _says_nothing(value: Any, default: Any) -> bool:
    return value is None or value is False or (type(value) is type(default) and value == default)


def _checked(name: str, value: Any) -> Any:
    if name in _TYPES:
        expected, text = _TYPES[name]
        check_type(_FUNCTION, f"onnx_export_setting['{name}']", value, expected, text)
    if name in ("input_names", "output_names"):
        for one in value:
            check_type(_FUNCTION, f"onnx_export_setting['{name}']", one, str, "a list of strings")
    return list(value) if isinstance(value, tuple) else value
