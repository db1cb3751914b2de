"""The state of a layer that refinement may change; the folder in which a call keeps the layers that it has refined."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch

from ...errors import ConfigError
from ...nn.quantized_layer import QuantizedLayer
from .refinement import RefinedLayer


class SavedLayers:
    """The layers that an interrupted call has refined, one file each."""

    def __init__(self, folder: Path, settings: str) -> None:
        """Makes ``folder``; ``settings`` tells calls apart."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = settings

    def save(self, layer: QuantizedLayer, result: RefinedLayer) -> None:
        """Keeps the state of ``layer`` and its result."""
        file = self._file(layer.name)
        part = file.with_suffix(".part")
        torch.save({"settings": self._settings, "result": dataclasses.asdict(result), **layer_state(layer)}, part)
        part.replace(file)

    def load(self, layer: QuantizedLayer) -> RefinedLayer | None:
        """Loads the saved state into ``layer`` and returns its result; None if the layer was not saved.

        Raises:
          ConfigError: The file was written with other settings.
        """
        file = self._file(layer.name)
        if not file.exists():
            return None
        found = torch.load(file, weights_only=True, map_location=layer.non_float_inputs.device)
        if found["settings"] != self._settings:
            raise ConfigError(
                f"refine: '{file}' was written by a call with other methods or another seed. Pass an empty resume_dir."
            )
        with torch.no_grad():
            for name, value in layer_state(layer).items():
                for key, tensor in value.items():
                    tensor.copy_(found[name][key])
        result = found["result"]
        return RefinedLayer(result["name"], tuple(result["methods"]), tuple(map(tuple, result["skipped"])))

    def _file(self, layer: str) -> Path:
        return self._folder / f"{hashlib.sha256(layer.encode()).hexdigest()[:16]}.pt"


def layer_state(layer: QuantizedLayer) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the tensors of a layer that refinement may change."""
    assert layer.weighted is not None
    op = layer.weighted.op
    bias = op.stored_bias()
    own = {"weight": op.stored_weight, "bias": None if bias is None else bias[0]}
    return {
        "own": {name: tensor.detach() for name, tensor in own.items() if tensor is not None},
        "quantizer": dict(layer.weighted.quantizer.state_dict()),
        "shift": {} if layer.shift_bit is None else {"bits": layer.shift_bit},
    }
