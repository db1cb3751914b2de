"""One of the processes of test_uneven.py: calibrates and trains on batches that are not alike on all processes."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.quantizers import meeting

PATIENCE = 3.0
IFMR = {"quantizer": "UlqFakeQuantize", "quantizer_args": {"batch_num": 2}}
LUQ = {"quantizer": "LuqActivationFakeQuantize", "quantizer_args": {}}
# Sizes of the batches of processes 0 and 1.
RIGHT = {"fewer images": ([8, 8], [3, 1]), "an empty batch": ([8, 8], [4, 0])}
WRONG = {"fewer batches": ([8, 8], [8]), "an error": ([8, 8], [8, "nan"])}


class Net(nn.Module):
    """A convolution and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


def quantized(folder: Path, activation: dict[str, Any]) -> nn.Module:
    """Returns a fresh model with one quantizer for all activations, in calibration."""
    torch.manual_seed(0)
    model = Net().eval()
    (folder / "simple.yaml").write_text(f"common_config: {{activation_quant_params: {activation}}}")
    amct.create_quant_config_fx(folder / "config.json", model, folder / "simple.yaml")
    made = amct.create_quant_model_fx(folder / "config.json", model)
    amct.enable_quantization(made, calibration=True)
    return made


def batch(number: int, rank: int, size: Any) -> Tensor:
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(10 * number + rank))
    return x * torch.nan if size == "nan" else x[:size]


@torch.no_grad()
def calibrated(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    for x in batches:
        model(x)
    amct.enable_quantization(model, fake_quant=True)
    return model


def grids(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.cat([layer.activation[0].scale, layer.activation[0].zero_point.float()])
        for name, layer in model.quantized_layers.items()
    }


def outcome(folder: Path, activation: dict[str, Any], sizes: tuple[list[Any], ...], rank: int) -> Any:
    """Returns the grids that were found, or the error."""
    model = quantized(folder, activation)
    try:
        batches = [batch(number, rank, size) for number, size in enumerate(sizes[rank])]
        return grids(calibrated(model, batches))
    except amct.AmctError as error:
        return f"{type(error).__name__}: {error}"


def alone(folder: Path, rank: int) -> Any:
    """Returns the error of process 0, which calibrates alone, and of process 1 when that begins much later."""
    model, x = quantized(folder, LUQ), batch(0, rank, 8)
    dist.barrier()
    meeting.PATIENCE = PATIENCE
    if rank:
        time.sleep(2 * PATIENCE)
    try:
        model(x)
    except amct.AmctError as error:
        return f"{type(error).__name__}: {error}"


def joined(folder: Path, rank: int) -> dict[str, Tensor]:
    """Returns the state after training with 3 batches on process 0 and 1 on process 1, inside ``join``."""
    model = calibrated(quantized(folder, IFMR), [batch(0, rank, 8), batch(1, rank, 8)]).train()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    with wrapped.join():
        for number in range(3 - 2 * rank):
            optimizer.zero_grad()
            wrapped(batch(number, rank, 8)).square().sum().backward()
            optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=200)
    )
    own = folder / str(rank)
    own.mkdir()
    found: dict[str, Any] = {"join": joined(own, rank)}
    for case, sizes in {**RIGHT, **WRONG}.items():
        dist.barrier()
        found[f"{case}, IFMR"] = outcome(own, IFMR, sizes, rank)
    for case in ("an empty batch", "fewer batches"):
        dist.barrier()
        found[f"{case}, LUQ"] = outcome(own, LUQ, {**RIGHT, **WRONG}[case], rank)
    found["process 0 alone"] = alone(own, rank)
    torch.save(found, folder / f"found_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.chdir(sys.argv[1])  # logs go there
    main(Path(sys.argv[1]), int(sys.argv[2]))
