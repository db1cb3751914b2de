"""Loads a saved state into a freshly quantized model (spec 2.3)."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.layers.layer_container import LAYERS
from ..errors import ConfigError
from ..files.limits import check_holes
from ..log import get_logger
from ..quantizers.observers.observation import RangeObserver
from ..quantizers.quantizer import Quantizer
from .strict_loading import load_strictly, misfit

_log = get_logger(__name__)
_COUNT_OF_AVERAGE = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_SCALES = ("scale", "known_scale", "fixed_scale", "previous_clip_max")
# Ends of ranges, which contain 0. ULQ's learned ends, clip_max and clip_min, are left out: if a training step has moved
# an end across 0, the next forward restores the previous end.
_UPPER_ENDS, _LOWER_ENDS = ("max_val", "previous_max", "max_value"), ("min_val", "previous_min", "min_value")


def load_checkpoint(model: nn.Module, path: Path, state_dict_name: str | None) -> None:
    """Loads the state in ``path`` strictly into ``model``.

    Raises:
      ConfigError: The file holds no such state, the state does not fit the model, or has an impossible grid. A part of
        the state may be loaded then.
    """
    load_state(model, read_state(path, state_dict_name), path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads ``state``, which `read_state` has read from ``path``, strictly into a quantized ``model``.

    Raises:
      ConfigError: As `load_checkpoint`.
    """
    _refuse_float(state, path)
    _check_types(state, model.state_dict(), path)
    try:
        load_strictly(model, state)
    except RuntimeError as error:
        found = misfit(model, state, error)
        msg = (
            f"The state in '{path}' does not fit the model and its configuration: {found} It must be restored with"
            " the model and the configuration file it was made with."
        )
        raise ConfigError(msg) from error
    for key, tensor, problem in _impossible_values(model):
        raise ConfigError(f"'{path}': '{key}' is {_shown(tensor)}; {problem}.")


def read_state(path: Path, name: str | None, usual_names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Returns the state_dict in a checkpoint without what wrappers put in front of its keys; a log line says so.

    These are ``module.`` (DDP, averages), ``_orig_mod.`` (torch.compile, also inside a name), and whatever stands in
    front of all entries of quantizers, such as ``model.`` of a LightningModule. The count of an average is left out.

    Args:
      path: The file.
      name: Key of the state_dict, if the file holds a dict with more.
      usual_names: Keys that are tried, in this order, if ``name`` is None.

    Raises:
      ConfigError: The file holds no such state.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"'{path}' holds a {type(content).__name__}, not a state_dict.")
    if name is None:
        name = next((one for one in usual_names if isinstance(content.get(one), Mapping)), None)
    if name is not None:
        if name not in content:
            raise ConfigError(f"'{path}' has no key '{name}' (state_dict_name). Its keys: {_listed(content)}.")
        content = content[name]
    if not isinstance(content, Mapping):
        where = f"'{name}' in it" if name is not None else "it"
        raise ConfigError(f"'{path}' is not a state_dict of tensors: {where} is a {type(content).__name__}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            what = f"the key {key!r} is no string" if not isinstance(key, str) else f"'{key}' is {_kind(value)}"
            raise ConfigError(
                f"'{path}' is not a state_dict of tensors: {what}; pass state_dict_name if it holds one. Its keys:"
                f" {_listed(content)}."
            )
    return _without_wrappers(content, path)


def _without_wrappers(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    names = {key: _without_front(key.replace("_orig_mod.", ""), "module.") for key in state if key != _COUNT_OF_AVERAGE}
    fronts = {name.partition(f"{LAYERS}.")[0] for name in names.values() if f"{LAYERS}." in name}
    if len(fronts) == 1 and (front := fronts.pop()).endswith("."):
        names = {key: name.removeprefix(front) for key, name in names.items()}
    count = sum(key != name for key, name in names.items())
    if count:
        _log.info(
            "'%s': took the prefixes of wrappers (DistributedDataParallel, torch.compile) off %d keys.", path, count
        )
    return {name: state[key] for key, name in names.items()}


def _without_front(name: str, front: str) -> str:
    while name.startswith(front):
        name = name.removeprefix(front)
    return name


def _refuse_float(state: Mapping[str, Tensor], path: Path) -> None:
    if not state:
        raise ConfigError(f"'{path}' holds a state_dict without entries.")
    if not any(key.startswith(f"{LAYERS}.") for key in state):
        raise ConfigError(
            f"'{path}' holds the state of a float model: none of its {len(state)} entries is one of a quantizer"
            f" ('{LAYERS}.*'). Load it into the float model with load_state_dict, then quantize and calibrate that."
        )


def _load(path: Path) -> Any:
    """Returns the object in the file; tensors are on the CPU, and no code in the file is run."""
    reason = _unreadable(path)
    if reason is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's advice on other formats
                return torch.load(path, weights_only=True, map_location="cpu")
        except MemoryError:
            reason = "it claims more memory than there is"
        except Exception:  # a damaged pickle may raise anything; torch's own text recommends running code of the file
            reason = "it is damaged, of another format, or holds other objects than tensors"
    raise ConfigError(
        f"'{path}' is not a checkpoint of tensors: {reason}. Save it with torch.save(model.state_dict(), ...)."
    )


def _unreadable(path: Path) -> str | None:
    """Returns why torch must not open the file; None if torch may. Raises OSError if the file cannot be opened."""
    if not path.stat().st_size:
        return "the file is empty"
    check_holes(path)
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return None  # the format before torch 1.6, or none
        with zipfile.ZipFile(path) as archive:
            is_packed = any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "the archive is damaged"
    return "its tensors are compressed, which torch.save never does" if is_packed else None


def _check_types(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raises ConfigError for tensors of another kind, such as integers for reals, which loading would convert."""
    for key in state.keys() & expected.keys():
        found, wanted = state[key], expected[key]
        if found.layout != torch.strided or _number_kind(found) != _number_kind(wanted):
            raise ConfigError(f"'{path}': '{key}' is {_kind(found)}; the model has {_kind(wanted)}.")


def _number_kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "real"
    return "complex" if tensor.is_complex() else "bool" if tensor.dtype == torch.bool else "integer"


def _impossible_values(model: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """Yields (key, tensor, problem) for values of quantizers that neither calibration nor training can produce."""
    for prefix, module in model.named_modules():
        if not isinstance(module, Quantizer | RangeObserver):
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if (problem := _problem(name, tensor.detach())) is not None:
                yield f"{prefix}.{name}", tensor.detach(), problem


def _problem(name: str, tensor: Tensor) -> str | None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return "it must be finite"
    if name in _SCALES and not bool((tensor > 0).all()):
        return "it must be positive"
    if name in _UPPER_ENDS and bool((tensor < 0).any()):
        return "the upper end of a range must not be negative"
    if name in _LOWER_ENDS and bool((tensor > 0).any()):
        return "the lower end of a range must not be positive"
    return None


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} with shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _shown(tensor: Tensor) -> str:
    values = tensor.reshape(-1)[:4].tolist()
    more = ", ..." if tensor.numel() > 4 else ""
    return f"{values[0]}" if tensor.numel() == 1 else f"[{', '.join(map(str, values))}{more}]"


def _listed(content: Mapping[Any, Any]) -> str:
    keys = [str(key)[:80] for key in list(content)[:10]]
    return ", ".join(keys) + (f", ... ({len(content)} in all)" if len(content) > 10 else "")
