"""The float network for a checkpoint of a sample: the narrow network of the digits, or torchvision's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sample.common.calibration import CalibrationSample
from sample.common.zoo import RECIPES


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Returns the content of a sample's checkpoint; tensors are on the CPU."""
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def state_in(content: dict[str, Any], name: str | None, file: Path) -> dict[str, Tensor]:
    """Returns the weights in the ``content`` of ``file``: under the key ``name``, or all of it."""
    if name and name not in content:
        keys = [str(key) for key in content]
        listed = ", ".join(keys[:10]) + (f", ... ({len(keys)} in all)" if len(keys) > 10 else "")
        raise SystemExit(f"--state_dict_name: {file} has no key '{name}'. Its keys: {listed}.")
    state: dict[str, Tensor] = content[name] if name else content
    return state


def float_model_for(sample: CalibrationSample, state: dict[str, Tensor]) -> nn.Module:
    """Returns an untrained float network with the shapes of a quantized model's ``state``, in eval mode."""
    narrow = RECIPES[sample.network].build()
    if all(state[name].shape == value.shape for name, value in narrow.state_dict().items()):
        return narrow.eval()
    return sample.build(state[sample.classifier].shape[0]).eval()
