"""One of the processes of test_ddp.py: quantizes, calibrates and trains on its share of every batch."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.dynamic_nets import SmallResNet
from tests.support.nets import shake_batch_norms

STEPS = 4
CASES = ("find_unused_parameters=False", "find_unused_parameters=True", "two models")
SIMPLE = """
common_config:
  activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {batch_num: 3}}
override_layer_configs:
  - layer_name: conv2
    activation_quant_params:
      {quantizer: LuqActivationFakeQuantize, quantizer_args: {observer: IFMRObserver, batch_num: 3}}
    weight_quant_params: {quantizer: LnqFakeQuantize, quantizer_args: {cluster_freq: 2}}
"""
RETRAIN = """
retrain_data_quant_config: { ulq_quantize: { } }
override_layer_configs: { layer_name: "fc" retrain_weight_quant_config: { lnq_quantize: { cluster_freq: 2 } } }
"""


class Net(nn.Module):
    """BatchNorm, shared inputs, an addition of integers whose quantizers are never used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.conv3 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.offsets = nn.Embedding(4, 4)
        self.fc = nn.Linear(4, 3)
        shake_batch_norms(self)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.conv2(x) + self.conv3(x))
        ids = ids + ids
        return self.fc(x.mean((2, 3)) + self.offsets(ids))


class Pair(nn.Module):
    """Two quantized models, trained together."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.one(x, ids) + self.two(x.flip(-1), ids)


def run(folder: Path, rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    """Returns grids after calibration and states after training, by case."""
    torch.manual_seed(0)
    quantized = calibrated(folder, rank, world_size)
    found = {"calibrated": grids(quantized), "start": cloned(quantized)}
    state = cloned(quantized)
    for case in CASES:
        amct.freeze_batch_norm(quantized)  # one process would see the statistics of the joined batch
        quantized.load_state_dict(state)
        trained = Pair(quantized, copy.deepcopy(quantized)) if case == "two models" else quantized
        train(trained, rank, world_size, find_unused="True" in case)
        found[case] = cloned(quantized)
    quantized.load_state_dict(state)
    amct.freeze_batch_norm(quantized, False)
    train(quantized, rank, world_size, find_unused=False)
    found["batch statistics"] = cloned(quantized)
    return found | {"dynamic path": dynamic_path(folder, rank, world_size)}


def dynamic_path(folder: Path, rank: int, world_size: int) -> dict[str, Tensor]:
    """The state after training on the dynamic path, whose first steps, in DistributedDataParallel, find the ranges."""
    torch.manual_seed(0)
    model, config_file, record_file = SmallResNet(), folder / "retrain.json", folder / "record.txt"
    simple = folder.parent / f"retrain_{rank}.cfg"
    simple.write_text(RETRAIN)
    for _ in range(3):
        amct.create_quant_retrain_config(config_file, model, share(0, rank, world_size)[0], simple)
        quantized = amct.create_quant_retrain_model(config_file, model, record_file, share(0, rank, world_size)[0])
    amct.freeze_batch_norm(quantized)
    trained = nn.Sequential(quantized)
    if world_size > 1:
        trained = nn.parallel.DistributedDataParallel(quantized)
    trained.train()
    if world_size == 1:
        trained(share(0, 0, 1)[0])  # the ranges are those of the whole batch
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(trained, [(part[:1], part[2]) for part in shares(step, rank, world_size)])
        optimizer.step()
    trained.eval()
    if rank == 0:  # the master process evaluates and saves, the others need not
        with torch.no_grad():
            quantized(share(0, 0, 1)[0])
        prefix, x = str(folder / f"model_of_{world_size}"), share(0, 0, 1)[0]
        amct.save_quant_retrain_model(config_file, trained, record_file, prefix, x)
    return cloned(quantized)


def calibrated(folder: Path, rank: int, world_size: int) -> nn.Module:
    """Every rank makes the same files and the same model, and observes its share of three batches."""
    model, config_file = Net().eval(), folder / "config.json"
    simple = folder.parent / f"simple_{rank}.yaml"
    simple.write_text(SIMPLE)
    for _ in range(5):  # often, to meet the other rank in the middle of it
        amct.create_quant_config_fx(config_file, model, simple)
    quantized = amct.create_quant_model_fx(config_file, model)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        for batch in range(3):
            quantized(*share(batch, rank, world_size)[:2])
    return quantized


def train(quantized: nn.Module, rank: int, world_size: int, find_unused: bool) -> None:
    """A few steps of SGD on this rank's share of every batch."""
    model: nn.Module = quantized
    if world_size > 1:
        model = nn.parallel.DistributedDataParallel(quantized, find_unused_parameters=find_unused)
    amct.enable_quantization(model, fake_quant=True)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(model, [(part[:2], part[2]) for part in shares(step, rank, world_size)])
        optimizer.step()


def backward(model: nn.Module, batches: list[tuple[tuple[Tensor, ...], Tensor]]) -> None:
    """Adds the gradients of the mean loss over all batches, which have the same size."""
    for inputs, labels in batches:
        (F.cross_entropy(model(*inputs), labels) / len(batches)).backward()


def shares(batch: int, rank: int, world_size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The part of a batch that this process computes; a process that is alone computes those of both ranks.

    One forward over the joined batch has the same gradient but for the order of its float sums, which depends on the
    processor: where a sum lies at the border between two integers, that decides a whole step of the grid.
    """
    return [share(batch, each, 2) for each in (range(2) if world_size == 1 else [rank])]


def share(batch: int, rank: int, world_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The images, ids and labels of batch number ``batch`` that belong to a rank."""
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(8, 3, 6, 6, generator=generator)
    ids, labels = (torch.randint(0, limit, (8,), generator=generator) for limit in (2, 3))
    return x[rank::world_size], ids[rank::world_size], labels[rank::world_size]


def grids(quantized: nn.Module) -> dict[str, Tensor]:
    """Scale and offset of every activation."""
    return {
        f"{name}.{index}": torch.stack([quantizer.params().scale, quantizer.params().offset.float()])
        for name, layer in quantized.quantized_layers.items()
        for index, quantizer in enumerate(layer.activation)
        if not layer.non_float_inputs[index]
    }


def cloned(quantized: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in quantized.state_dict().items()}


def main(folder: str, rank: str | None = None, world_size: str | None = None) -> None:
    """Runs as one process of several; torchrun says which in the environment."""
    torch.set_num_threads(1)
    if rank is None:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(world_size or 1)
        )
    found = run(Path(folder) / "shared", dist.get_rank(), dist.get_world_size())
    torch.save(found, Path(folder) / f"found_{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.chdir(sys.argv[1])  # logs go there
    main(*sys.argv[1:])
