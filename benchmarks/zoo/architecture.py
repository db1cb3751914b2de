"""Architecture: one network of the zoo, and how networks of torchvision and timm are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from .libraries import timm, torchvision

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of the zoo.

    Attributes:
      name: Unique; the library's name of the model if there is one.
      source: The library with the model definition.
      build: Returns the untrained model.
      image_size: Height and width of the inputs.
      definition: Simple configuration (YAML); empty for the defaults.
      reason: Why the defaults do not do.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    image_size: int = 64
    definition: str = ""
    reason: str = ""


def vision(name: str, image_size: int = 64, **arguments: Any) -> Architecture:
    """A model of torchvision by name."""
    arguments = {"weights": None, "num_classes": CLASSES, **arguments}
    return Architecture(name, "torchvision", partial(torchvision.models.get_model, name, **arguments), image_size)


def segmentation(name: str, image_size: int = 64) -> Architecture:
    return vision(name, image_size, num_classes=5, weights_backbone=None)


def of_timm(name: str, image_size: int = 64, **arguments: Any) -> Architecture:
    """A model of timm by name."""
    return Architecture(name, "timm", partial(timm.create_model, name, num_classes=CLASSES, **arguments), image_size)


def sized(name: str, image_size: int = 64, **arguments: Any) -> Architecture:
    """A model of timm whose constructor needs the image size."""
    return of_timm(name, image_size, img_size=image_size, **arguments)
