"""Loads a saved state into a freshly quantized model (spec 2.3)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError


def load_checkpoint(model: nn.Module, path: Path, state_dict_name: str | None) -> None:
    """Loads the state in ``path`` strictly into ``model``; a leading ``module.`` (DDP) is stripped.

    Raises:
      ConfigError: The file holds no such state, or the state does not fit the model.
    """
    state = {name.removeprefix("module."): value for name, value in _read_state(path, state_dict_name).items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        msg = (
            f"The state in '{path}' does not fit the model and its configuration: {error} It must be restored with"
            " the model and the configuration file it was made with."
        )
        raise ConfigError(msg) from error


def _read_state(path: Path, name: str | None) -> Mapping[str, Tensor]:
    try:
        content: Any = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(f"'{path}' is not a checkpoint of tensors made by torch.save: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"'{path}' holds a {type(content).__name__}, not a state_dict.")
    if name is not None:
        if name not in content:
            raise ConfigError(f"'{path}' has no key '{name}' (state_dict_name). Its keys: {_listed(content)}.")
        content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        msg = f"'{path}' is not a state_dict of tensors; pass state_dict_name. Its keys: {_listed(content)}."
        raise ConfigError(msg)
    return content


def _listed(content: Any) -> str:
    keys = [str(key) for key in content] if isinstance(content, Mapping) else []
    return ", ".join(keys[:10]) + (f", ... ({len(keys)} in all)" if len(keys) > 10 else "")
