"""Sensitivity: what each layer costs, and what noise the layer makes at the output, under each setting."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...backends.batches.float_arrays import array_of
from ...backends.batches.outputs import output_tensors
from ...backends.fx.output_noise import OutputNoise
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.read.multiplications import count_multiplications
from ...backends.fx.write.example_call import positional_inputs
from ...config.layers.quant_config import QuantConfig
from ...core.metrics import ratio_db
from ...errors import ConfigError
from ...files import write_text_atomic
from ...nn.mode import Mode, forcing
from ...nn.quantized_layer import QuantizedLayer
from ...plan.cost_model import Work
from ...torch_private import pytree
from ..kept_state import copies_of
from ..static import calibrated_copy

Batch = tuple[Any, ...]
DRAWS = 4  # random directions per batch: with 32 pictures the scatter of a layer's noise is about a tenth


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What was measured of each layer.

    Attributes:
      work: What the layer does in a forward of the first batch.
      noise: For each setting and layer, noise power over signal power at the output.
    """

    work: Mapping[str, Work]
    noise: Mapping[str, Mapping[str, float]]


def calibrated(model: nn.Module, config: QuantConfig, batches: Sequence[Batch]) -> QuantGraphModule:
    """Returns ``model`` quantized with ``config`` and calibrated, in fake_quant."""
    quantized = calibrated_copy(model, lambda _: config, batches)
    quantized.mode = Mode.FAKE_QUANT
    return quantized


def measure(
    model: nn.Module,
    configs: Mapping[str, QuantConfig],
    batches: Sequence[Batch],
    *,
    seed: int,
    progress: bool,
    folder: Path | None,
) -> Sensitivity:
    """Returns the sensitivity of every layer under each configuration, by the name of the setting.

    Args:
      model: The float model.
      configs: The same layers are on in all of them.
      batches: Inputs.
      seed: Of the random directions.
      progress: Whether a progress bar is shown.
      folder: Where the result is kept, and looked for; None: nowhere.
    """
    file = None if folder is None else folder / "sensitivity.json"
    key = _key(model, configs, batches, seed)
    if file is not None and file.exists():
        return _read(file, key)
    with tqdm(total=len(configs) + len(batches), desc="sensitivity", unit="step", disable=not progress) as bar:
        models = {}
        for name, config in configs.items():
            models[name] = calibrated(model, config, batches)
            bar.update()
        reference = next(iter(models.values()))
        noise = OutputNoise(models, seed, DRAWS)
        for batch in batches:
            noise.add(copies_of(positional_inputs(reference, batch)))
            bar.update()
    found = noise.relative()
    for name, quantized in models.items():
        found[name] |= {layer: alone(quantized, layer, batches) for layer in sorted(noise.unknown)}
    result = Sensitivity(_work(reference, batches[0]), found)
    if file is not None:
        _write(file, key, result)
    return result


@torch.no_grad()
def alone(quantized: QuantGraphModule, layer: str, batches: Sequence[Batch]) -> float:
    """Returns noise over signal power at the output with only ``layer`` quantized: two whole forwards per batch."""
    signal = error = 0.0
    for batch in batches:
        wanted = outputs(quantized, batch, Mode.FLOAT)
        quantized.mode = Mode.FLOAT
        quantized.quantized_layers[layer].mode = Mode.FAKE_QUANT
        with quantized.keeping_inputs():
            got = _floats(quantized(*copies_of(positional_inputs(quantized, batch))))
        quantized.mode = Mode.FAKE_QUANT
        for one, other in zip(wanted, got, strict=True):
            power = float(one.double().square().sum()) or 1.0
            signal += 1.0
            error += float((one.double() - other.double()).square().sum()) / power
    return error / signal if signal else 0.0


@torch.no_grad()
def output_sqnr(quantized: QuantGraphModule, batches: Sequence[Batch]) -> float:
    """Returns the SQNR of fake_quant against the float network at the outputs, in dB."""
    signal = error = 0.0
    for batch in batches:
        wanted, got = outputs(quantized, batch, Mode.FLOAT), outputs(quantized, batch, Mode.FAKE_QUANT)
        for one, other in zip(wanted, got, strict=True):
            signal += 1.0
            error += float((one.double() - other.double()).square().sum()) / (float(one.double().square().sum()) or 1.0)
    return ratio_db(signal, error)


def outputs(quantized: QuantGraphModule, batch: Batch, mode: Mode) -> list[Tensor]:
    """Returns the floating tensors that a forward in ``mode`` gives."""
    with forcing(mode):
        return _floats(quantized(*copies_of(positional_inputs(quantized, batch))))


def _floats(result: Any) -> list[Tensor]:
    return [one for one in output_tensors(result) if one.is_floating_point()]


def _work(quantized: QuantGraphModule, batch: Batch) -> dict[str, Work]:
    elements: dict[str, int] = {}

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, QuantizedLayer)
        elements[layer.name] = sum(one.numel() for one in layer.call.inputs(args, kwargs) if isinstance(one, Tensor))

    layers = quantized.quantized_layers
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers.values()]
    try:
        outputs(quantized, batch, Mode.FLOAT)
    finally:
        for handle in handles:
            handle.remove()
    counted = count_multiplications(quantized, copies_of(positional_inputs(quantized, batch)))
    return {
        name: Work(
            multiplications=counted.get(name, 0),
            weights=0 if layer.weighted is None else layer.weighted.op.folded()[0].numel(),
            elements=elements.get(name, 0),
        )
        for name, layer in layers.items()
    }


def _key(model: nn.Module, configs: Mapping[str, QuantConfig], batches: Sequence[Batch], seed: int) -> str:
    """Returns a digest of all that the result depends on, but for the code of the model."""
    digest = hashlib.sha256(repr((seed, DRAWS, sorted(configs.items(), key=lambda one: one[0]))).encode())
    for one in pytree.tree_leaves((list(batches), dict(model.state_dict()))):
        digest.update(array_of(one).tobytes() if isinstance(one, Tensor) else repr(one).encode())
    return digest.hexdigest()


def _write(file: Path, key: str, result: Sensitivity) -> None:
    work = {name: dataclasses.asdict(one) for name, one in result.work.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, json.dumps({"key": key, "work": work, "noise": result.noise}, indent=1))


def _read(file: Path, key: str) -> Sensitivity:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        is_same = found["key"] == key
        result = Sensitivity({name: Work(**one) for name, one in found["work"].items()}, found["noise"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"auto_quantize: '{file}' is damaged ({error}). Pass an empty resume_dir.") from error
    if not is_same:
        raise ConfigError(
            f"auto_quantize: '{file}' was written by a call with other data or weights. Pass an empty resume_dir."
        )
    return result
