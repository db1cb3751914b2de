"""Subject: one prepared float network with its inputs and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hotwheels.amct_pytorch.core.metrics import sqnr_db

from .architectures import Architecture
from .preparation import images, prepare
from .stages import ConformanceError

CALIBRATION_IMAGES, TEST_IMAGES = 8, 2


@dataclasses.dataclass(frozen=True)
class Subject:
    """One network and its data.

    Attributes:
      model: In eval mode.
      calibration: The calibration batch.
      test: Other images.
      expected: The outputs of the float model for them.
      definition: Simple configuration; None for the defaults.
      folder: For all files.
    """

    model: nn.Module
    calibration: Tensor
    test: Tensor
    expected: Sequence[Tensor]
    definition: Path | None
    folder: Path


def make_subject(architecture: Architecture, folder: Path) -> Subject:
    """Builds and prepares the network, with the same weights in each call."""
    torch.manual_seed(0)
    calibration = images(CALIBRATION_IMAGES, architecture.image_size, seed=0)
    model = prepare(architecture.build(), [calibration])
    test = images(TEST_IMAGES, architecture.image_size, seed=1)
    definition = None
    if architecture.definition:
        definition = folder / "simple.yaml"
        definition.write_text(architecture.definition, encoding="utf-8")
    expected = outputs_of(model, test)
    if any(bool((one == one.flatten()[0]).all()) for one in expected if one.numel() > 1):
        raise ConformanceError("A float output has one value everywhere, so a comparison with it shows nothing.")
    return Subject(model, calibration, test, expected, definition, folder)


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Returns the tensors in the result of ``model(inputs)``, in the order of the exported file."""
    result: Any = model(inputs)
    return [one for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]


def worst_sqnr(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Returns the lowest signal to noise ratio of all outputs, dB.

    Raises:
      ConformanceError: The outputs differ in number or shape, or a value is not a number.
    """
    if [one.shape for one in expected] != [one.shape for one in found]:
        shapes = [[tuple(one.shape) for one in side] for side in (expected, found)]
        raise ConformanceError(f"Outputs have the shapes {shapes[1]} instead of {shapes[0]}.")
    if not all(bool(one.isfinite().all()) for one in found):
        raise ConformanceError("An output is NaN or infinite.")
    return min(sqnr_db(one, other) for one, other in zip(expected, found, strict=True))
