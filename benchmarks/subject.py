"""The network of the speed benchmark: a ResNet-50 as in torchvision, with activations as in a trained network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sample.resnet50.src.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of the measured ResNet and of its batches; the defaults are ResNet-50 as in torchvision."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    batch_size: int = 16
    image_size: int = 224

    def model(self) -> nn.Module:
        """Returns an untrained ResNet in eval mode whose BatchNorms have the statistics of their inputs.

        Without the statistics, and with residual branches initialized to zero, half of the observed tensors would be
        constant.
        """
        torch.manual_seed(0)
        model = ResNet(self.blocks, 1000, self.width)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(2, 3, max(self.image_size, 64), max(self.image_size, 64)))
        return model.eval()

    def batches(self, count: int) -> Iterator[Tensor]:
        """Yields ``count`` batches ``[batch_size, 3, image_size, image_size]``, the same batches in each call."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        for _ in range(count):
            yield torch.randn(shape, generator=generator)


def quantize(model: nn.Module, config_file: Path, batch_num: int) -> nn.Module:
    """Returns ``model`` quantized with the default settings, but calibrated on ``batch_num`` batches.

    The default is one batch; the benchmark calibrates on both of its batches.
    """
    import hotwheels.amct_pytorch as amct  # imported here, so that the float run's memory does not include the SDK

    amct.create_quant_config_fx(config_file, model)
    config = json.loads(config_file.read_text(encoding="utf-8"))
    for layer in config.values():
        for quantizer in layer.get("activation_quant_params", []):
            quantizer["quantizer_args"]["batch_num"] = batch_num
    config_file.write_text(json.dumps(config), encoding="utf-8")
    return amct.create_quant_model_fx(config_file, model)
