"""The argument MODEL: a float model from a callable of the user's, from timm or from torchvision, with its weights."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from torch import Tensor, nn

from ..errors import ConfigError, nearest_names
from ..workflows.checkpoint import read_state
from ..workflows.strict_loading import misfit

_Function = TypeVar("_Function", bound=Callable[..., Any])
QUANTIZED_LAYERS = "amct_layers."  # part of keys in the state_dict of a quantized model
_SHOWN = 8  # names in a message


def model_options(function: _Function) -> _Function:
    """Adds MODEL and the options of its weights and arguments."""
    for decorate in reversed(
        (
            click.argument("source", metavar="[MODEL]", required=False),
            click.option("-m", "--model", "named", metavar="MODEL", help="Another way to give MODEL."),
            click.option(
                "-w",
                "--weights",
                type=click.Path(path_type=Path),
                help="Checkpoint: a state_dict of the float model, or of the quantized one.",
            ),
            click.option("--state_dict_name", metavar="KEY", help="Key of the state_dict in the checkpoint."),
            click.option(
                "--model_args", metavar="JSON", default="{}", help='Arguments of the callable: {"num_classes": 10}.'
            ),
        )
    ):
        function = decorate(function)
    return function


def given_model(source: str | None, named: str | None) -> str:
    """Returns MODEL, which is either the argument or the option -m.

    Raises:
      UsageError: Neither or both are given.
    """
    if (source is None) == (named is None):
        said = "Give MODEL once: as the argument or with -m." if source else "MODEL is missing."
        raise click.UsageError(said)
    return source or named or ""


def build_model(source: str, model_args: str) -> nn.Module:
    """Returns the float model that ``source`` names, in eval mode.

    Args:
      source: ``timm:NAME``, ``torchvision:NAME``, ``package.module.callable``, ``module:callable`` or
        ``file.py:callable``; the callable may be a function that returns a model, a class of models, or a model.
      model_args: JSON object, the keyword arguments of the callable.

    Raises:
      ConfigError: There is no such model, library or callable, or the callable returns something else.
    """
    arguments = _parsed(model_args)
    library, colon, name = source.partition(":")
    if colon and library in _LIBRARIES:
        return _LIBRARIES[library](name, arguments).eval()
    found = _attribute(source)
    if isinstance(found, nn.Module):
        return found.eval()
    if not callable(found):
        raise ConfigError(f"'{source}' is {_kind(found)}; expected a callable that returns a torch.nn.Module.")
    _check_arguments(source, found, arguments)
    model = found(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"'{source}' returned {_kind(model)}; expected a torch.nn.Module.")
    return model.eval()


def read_weights(path: Path | None, state_dict_name: str | None) -> Mapping[str, Tensor] | None:
    """Returns the state_dict in a checkpoint, or under one of its usual keys; None without a checkpoint.

    Raises:
      ConfigError: The file is no checkpoint of tensors, or has no such key.
      FileNotFoundError: There is no such file.
    """
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"-w: there is no file '{path}'.")
    return read_state(path, state_dict_name, usual_names=("state_dict", "model"))


def is_of_quantized(state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` is the state_dict of a model from ``create_quant_model_fx``."""
    return any(QUANTIZED_LAYERS in key for key in state)


def load_float_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path | None) -> None:
    """Loads ``state`` strictly.

    Raises:
      ConfigError: The state does not fit the model.
    """
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ConfigError(f"The weights in '{path}' do not fit the model: {misfit(model, state, error)}") from error


def _parsed(model_args: str) -> dict[str, Any]:
    try:
        arguments = json.loads(model_args)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--model_args is no JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise ConfigError(f"--model_args must be a JSON object of arguments, got {_kind(arguments)}.")
    return arguments


def _check_arguments(source: str, found: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError if ``found`` does not take ``arguments``, or needs more."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # a callable written in C may have none
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"'{source}': {error}. Give its arguments by --model_args '{{\"NAME\": VALUE}}'.") from error


def _attribute(source: str) -> Any:
    file, colon, name = source.rpartition(":")
    if colon and file.endswith(".py"):
        return _member(_module_of_file(Path(file)), name, source)
    if source.endswith(".py"):
        raise ConfigError(f"'{source}' is a file; say what in it makes the model: {source}:NAME.{_models_in(source)}")
    module, separator, name = source.rpartition(":" if colon else ".")
    if not separator:
        raise ConfigError(
            f"'{source}' names no callable. Write package.module.callable, file.py:callable, timm:NAME or"
            " torchvision:NAME."
        )
    try:
        return _member(importlib.import_module(module), name, source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # an import inside the user's module
        raise ConfigError(f"'{source}': there is no module '{error.name}' here or in PYTHONPATH.") from error


def _models_in(file: str) -> str:
    """Names the functions and classes of the file, which is not run; empty if it cannot be read."""
    try:
        nodes = ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [one.name for one in nodes if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name[0] != "_"]
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return f" It has {', '.join(names[:_SHOWN])}{more}." if names else ""


def _module_of_file(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"MODEL: there is no file '{file}'.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses and pickle look up a class's module there
    sys.path.insert(0, str(file.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def _member(module: Any, name: str, source: str) -> Any:
    if not hasattr(module, name):
        known = [one for one in vars(module) if callable(getattr(module, one)) and not one.startswith("_")]
        raise ConfigError(f"'{source}': module '{module.__name__}' has no '{name}'. {nearest_names(name, known)}")
    return getattr(module, name)


def _of_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    timm = _library("timm")
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model '{name}'. {nearest_names(name, timm.list_models())}")
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def _of_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    models = _library("torchvision").models
    if name not in models.list_models():
        raise ConfigError(f"torchvision has no model '{name}'. {nearest_names(name, models.list_models())}")
    model: nn.Module = models.get_model(name, **arguments)
    return model


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name} is not installed: pip install {name}.") from error
    except (ImportError, RuntimeError) as error:  # builds of torch and torchvision that do not fit each other
        said = f"{name} cannot be imported: {error}. Install torch and torchvision of one build, from one index."
        raise ConfigError(said) from error


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}"


_LIBRARIES: Mapping[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}
