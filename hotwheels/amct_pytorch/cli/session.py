"""The common part of commands on models: MODEL, its configuration and its inputs, up to a calibrated model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..api.fx import create_quant_config_fx, create_quant_model_fx, enable_quantization
from ..api.refine import refine
from ..backends.fx.quant_graph_module import QuantGraphModule
from ..backends.layers.calibration_forward import refinement_follows
from ..config.arguments.algorithms import QUANTIZERS
from ..config.arguments.quantizer_check import observer_of
from ..config.files.text_file import read_text
from ..config.files.tolerant_json import dump_json, read_json
from ..config.files.yaml_text import load_yaml
from ..config.layers.layer_rules import ACTIVATION_PARAMS
from ..config.layers.quant_config import QuantizerConfig
from ..config.layers.refine_config import RefineConfig
from ..errors import AmctError, ConfigError
from ..files import FileSet, PathLike, write_text_atomic
from ..files.limits import SIMPLE_CONFIG
from ..log import get_logger, without_log
from ..quantizers.observers.ifmr_observer import IFMRObserver
from ..quantizers.observers.observation import RangeObserver
from ..workflows.checkpoint import load_state
from ..workflows.quantized import uncalibrated
from .inputs import Batches, InputOptions, input_options, parse_input_options, with_defaults_of
from .models import build_model, given_model, is_of_quantized, load_float_weights, model_options, read_weights

_Function = TypeVar("_Function", bound=Callable[..., Any])
_log = get_logger(__name__)
_SIMPLE, _JSON = (".yml", ".yaml"), ".json"
_BATCH_NUM, _IFMR = "batch_num", "IFMRObserver"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """MODEL, its weights and its inputs, as the options give them.

    Attributes:
      name: Beginning of the names of the files.
      model: The float model with its weights, in eval mode.
      quantized_state: The state_dict in ``-w`` if it belongs to a quantized model; else None.
      weights: Path of the checkpoint; None without ``-w``.
      inputs: The options of the inputs.
    """

    name: str
    model: nn.Module
    quantized_state: Mapping[str, Tensor] | None
    weights: Path | None
    inputs: InputOptions


def takes_model(function: _Function) -> Callable[..., Any]:
    """Adds the options of a model and its inputs to a command, which gets them as its argument ``given``."""

    @functools.wraps(function)
    def call(
        source: str | None,
        named: str | None,
        weights: Path | None,
        state_dict_name: str | None,
        model_args: str,
        sources: tuple[str, ...],
        input_shape: str | None,
        batch_size: int | None,
        mean: str | None,
        std: str | None,
        **options: Any,
    ) -> Any:
        where = given_model(source, named)
        inputs = parse_input_options(sources, input_shape, batch_size, mean, std)
        model = build_model(where, model_args)
        state = read_weights(weights, state_dict_name)
        is_quantized = state is not None and is_of_quantized(state)
        if state is not None and not is_quantized:
            load_float_weights(model, state, weights)
        given = Given(
            name=where.replace(":", ".").rpartition(".")[2],
            model=model,
            quantized_state=state if is_quantized else None,
            weights=weights,
            inputs=with_defaults_of(inputs, where, model),
        )
        with _hinting(inputs):
            return function(given=given, **options)

    return model_options(input_options(call))


@contextlib.contextmanager
def _hinting(inputs: InputOptions) -> Iterator[None]:
    """Adds notes on what looks wrong in the inputs to an error that the model, or torch inside it, raises."""
    try:
        yield
    except (AmctError, OSError, click.ClickException):
        raise
    except Exception as error:  # whatever the user's model raises
        error.__notes__ = [*getattr(error, "__notes__", []), *inputs.hints()]  # add_note: Python 3.11
        raise


def config_option(function: _Function) -> _Function:
    """Adds ``--quant_config``."""
    text = (
        "Simple configuration (.yml, .yaml) or config.json; default: the config.json beside a quantized checkpoint,"
        " else everything with 8 bits."
    )
    return click.option("--quant_config", type=click.Path(path_type=Path), metavar="FILE", help=text)(function)


def output_option(default: str, text: str, *, is_folder: bool = False) -> Callable[[_Function], _Function]:
    """Adds ``-o``, which ``-k`` spells as well; with ``is_folder`` an existing file is refused."""
    kind = click.Path(path_type=Path, file_okay=not is_folder)
    return click.option("-o", "-k", "--output", type=kind, default=Path(default), show_default=True, help=text)


def write_config(given: Given, quant_config: Path | None, target: Path, batch_num: int | None) -> None:
    """Writes the config.json of the model to ``target``: made from a simple configuration, or the one given.

    A WARNING says if ``target`` was another configuration: users may have edited it.

    Args:
      given: The model.
      quant_config: .yml, .yaml, .json or None for the defaults.
      target: File to write.
      batch_num: Calibration batches of every quantizer; None keeps the values of the configuration.

    Raises:
      ConfigError: The file is of another kind, or its content is wrong.
    """
    if quant_config is not None and not quant_config.is_file():
        raise FileNotFoundError(f"--quant_config: there is no file '{quant_config}'.")
    suffix = None if quant_config is None else quant_config.suffix.lower()
    if suffix not in (None, _JSON, *_SIMPLE):
        raise ConfigError(f"--quant_config: '{quant_config}' must end in .yml, .yaml or .json.")
    before = target.read_bytes() if target.is_file() else None
    if quant_config is not None and suffix == _JSON:
        if quant_config.resolve() != target.resolve():
            write_text_atomic(target, quant_config.read_text(encoding="utf-8"))
    else:
        target.unlink(missing_ok=True)  # or else a second run warns of its own file
        create_quant_config_fx(target, given.model, quant_config, input_data=given.inputs.example())
    if batch_num is not None:
        _set_batch_num(target, batch_num)
    if before not in (None, target.read_bytes()):
        _log.warning("The configuration '%s' was another one and is replaced.", target)


def restored(given: Given, quant_config: Path | None) -> QuantGraphModule:
    """Returns the quantized model whose state is in ``-w``.

    Args:
      given: The model.
      quant_config: What the checkpoint was made with; None: the config.json beside it, else the default configuration.

    Raises:
      UsageError: There is none, or the state in it is that of a float model.
      ConfigError: The state does not fit the configuration.
    """
    if given.quantized_state is None or given.weights is None:
        what = "is a checkpoint of the float model" if given.weights is not None else "is missing"
        raise click.UsageError(f"-w {what}: give the .pt that 'amct quantize' wrote beside its files.")
    quantized = uncalibrated_model(given, config_of_checkpoint(given, quant_config))
    load_state(quantized, given.quantized_state, given.weights)
    return quantized


def config_of_checkpoint(given: Given, quant_config: Path | None) -> Path | None:
    """Returns ``quant_config``, or without it the config.json beside a quantized checkpoint; None without both."""
    if quant_config is not None or given.quantized_state is None or given.weights is None:
        return quant_config
    beside = given.weights.with_name("config.json")
    if beside.is_file():
        _log.info("--quant_config: '%s', which lies beside the checkpoint.", beside)
        return beside
    return None


def uncalibrated_model(given: Given, quant_config: Path | None) -> QuantGraphModule:
    """Returns the model quantized as ``quant_config`` says, by default with 8 bits; nothing is written."""
    example = given.inputs.example()
    if quant_config is not None and quant_config.suffix.lower() == _JSON:
        return create_quant_model_fx(quant_config, given.model, input_data=example)
    with tempfile.TemporaryDirectory() as folder:
        config_file = Path(folder) / "config.json"
        write_config(given, quant_config, config_file, None)
        return create_quant_model_fx(config_file, given.model, input_data=example)


def restored_or_float(given: Given, quant_config: Path | None) -> nn.Module:
    """Returns the quantized model if ``-w`` is a checkpoint of one; else the float model."""
    return given.model if given.quantized_state is None else restored(given, quant_config)


def calibrated(given: Given, config_file: Path, *, refines: bool) -> QuantGraphModule:
    """Returns the model quantized as ``config_file`` says, calibrated, and with ``refines`` refined, with ``-i``."""
    batches = given.inputs.batches()
    quantized = create_quant_model_fx(config_file, given.model, input_data=given.inputs.example())
    batches.require(max((one.batch_num for one in quantized.modules() if isinstance(one, IFMRObserver)), default=0))
    enable_quantization(quantized, calibration=True)
    with refinement_follows() if refines else contextlib.nullcontext():
        count = _calibrate(quantized, batches)
    if refines:
        asked = (quantized.origin and quantized.origin.refine) or RefineConfig()
        count = max(count, batches.enough)
        _tell_samples("Refining", batches, count)
        refine(quantized, batches.up_to(batches.samples_of(count)), asked.methods, seed=asked.seed)
    return quantized


def _calibrate(quantized: QuantGraphModule, batches: Batches) -> int:
    """Runs batches until further ones would change nothing; returns how many ran."""
    count = 0
    with torch.no_grad(), tqdm(total=len(batches), desc="calibration", unit="batch") as bar:
        for batch in batches:
            quantized(*batch)
            count += 1
            bar.update()
            if _has_seen_enough(quantized):
                break
    _tell_samples("Calibrated", batches, count)
    return count


def _tell_samples(done: str, batches: Batches, count: int) -> None:
    used = batches.samples_of(count)
    more = "" if used == batches.samples else "; --batch_num N takes more batches, -b N makes them larger"
    _log.info("%s with %d of the %d samples of -i, batches: %d%s.", done, used, batches.samples, count, more)


def _has_seen_enough(quantized: QuantGraphModule) -> bool:
    """Whether further batches would change nothing."""
    observers = (one for one in quantized.modules() if isinstance(one, RangeObserver))
    return not uncalibrated(quantized) and not any(one.keeps_updating for one in observers)


def save_checkpoint(quantized: nn.Module, path: PathLike) -> None:
    """Writes the state_dict of ``quantized`` to ``path``, whole or not at all; folders are made."""
    with FileSet() as files, files.open(path) as file:
        torch.save(quantized.state_dict(), file)


def states_batch_num(quant_config: Path | None) -> bool:
    """Whether a configuration says how many batches calibrate, for any layer."""
    if quant_config is None or not quant_config.is_file():
        return False
    with without_log():  # `write_config` reads the file again and warns then
        if quant_config.suffix.lower() == _JSON:
            return _has_key(read_json(quant_config), _BATCH_NUM)
        text = read_text(quant_config, "Simple configuration file", SIMPLE_CONFIG)
        return _has_key(load_yaml(text, str(quant_config)), _BATCH_NUM)


def _has_key(value: object, key: str) -> bool:
    if isinstance(value, Mapping):
        return key in value or any(_has_key(one, key) for one in value.values())
    return isinstance(value, list) and any(_has_key(one, key) for one in value)


def _set_batch_num(config_file: Path, batch_num: int) -> None:
    document = read_json(config_file)
    for layer in document.values() if isinstance(document, dict) else ():
        inputs = layer.get(ACTIVATION_PARAMS) if isinstance(layer, dict) else None
        for one in inputs if isinstance(inputs, list) else [inputs]:
            if isinstance(one, dict) and _counts_batches(one):
                one.setdefault("quantizer_args", {})[_BATCH_NUM] = batch_num
    write_text_atomic(config_file, dump_json(document))


def _counts_batches(quantizer: Mapping[str, Any]) -> bool:
    """Whether the quantizer of a config.json finds its range after ``batch_num`` batches."""
    name, args = quantizer.get("quantizer"), quantizer.get("quantizer_args") or {}
    if _BATCH_NUM in args:
        return True
    return name in QUANTIZERS and observer_of(QuantizerConfig(str(name), args)) == _IFMR
