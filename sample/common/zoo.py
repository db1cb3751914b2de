"""The networks that are trained on the digits, each with a recipe that reaches more than 98 % top-1."""

import dataclasses
from collections.abc import Callable

from torch import nn

from sample.common.digits import IMAGE_SIZE, NUM_CLASSES
from sample.mobilenet_v2.src.mobilenet import mobilenet_v2
from sample.nets.shufflenet import ShuffleNet
from sample.nets.vit import VisionTransformer
from sample.resnet50.src.resnet import resnet50
from sample.vit.src import vit


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one network is trained on the digits.

    Attributes:
      build: Returns the untrained network.
      epochs: Passes over the training part.
      peak_lr: AdamW's highest learning rate (one-cycle schedule).
      batch_size: Images per step.
    """

    build: Callable[[], nn.Module]
    epochs: int
    peak_lr: float
    batch_size: int = 64


VIT_OF_DIGITS = vit.VitSize(image_size=IMAGE_SIZE, patch_size=8, dim=64, depth=4, num_heads=4, mlp_dim=128)
RECIPES = {
    "resnet50": Recipe(lambda: resnet50(NUM_CLASSES, width=8), epochs=20, peak_lr=4e-3),
    "mobilenet_v2": Recipe(lambda: mobilenet_v2(NUM_CLASSES, width_mult=0.35), epochs=16, peak_lr=1.2e-2),
    "shufflenet": Recipe(
        lambda: ShuffleNet(NUM_CLASSES, channels=(48, 96, 192), blocks=(2, 3, 2)), epochs=15, peak_lr=6e-3
    ),
    "vit": Recipe(
        lambda: VisionTransformer(NUM_CLASSES, IMAGE_SIZE, patch_size=8, dim=64, depth=4, num_heads=4),
        epochs=60,
        peak_lr=2e-3,
    ),
    "vit_b_16": Recipe(lambda: vit.VisionTransformer(NUM_CLASSES, VIT_OF_DIGITS), epochs=60, peak_lr=3e-3),
}
