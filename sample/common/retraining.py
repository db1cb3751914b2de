"""Quantization-aware training of a classification network, from float model to deploy files, on one or more processes.

retrain_paths.py contains the calls of the library, in the order of your own script.
"""

import argparse
import csv
import dataclasses
import itertools
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import hotwheels.amct_pytorch as amct
from sample.common import digits
from sample.common.calibration import IMAGENET_SIZE, CalibrationSample
from sample.common.datasets import Loaders, make_loaders
from sample.common.evaluation import Accuracy, evaluate_torch, print_accuracies, print_files
from sample.common.restoring import read_checkpoint
from sample.common.retrain_options import parse_options
from sample.common.retrain_paths import Folders, FxPath, RetrainPath
from sample.common.training import trained

MOMENTUM = 0.9
CPU_PROCESSES = 2


@dataclasses.dataclass
class Progress:
    """The content of a checkpoint beside weights and optimizer.

    Attributes:
      epoch: The next epoch.
      best_top1: Highest top-1 accuracy of the evaluations in the path's last mode.
    """

    epoch: int = 0
    best_top1: float = -1.0


def main(sample: CalibrationSample, from_checkpoint: bool = False, path: RetrainPath | None = None) -> None:
    """Runs the sample with the options of the command line, by default on the FX path."""
    path = path or FxPath()
    started = time.perf_counter()
    args = parse_options(sample.network, from_checkpoint)
    if not args.distributed:
        _run(0, sample, args, path, 1)
    else:
        if not args.train_set:
            trained(sample.network)  # once, not once per process
        processes = torch.cuda.device_count() or CPU_PROCESSES
        torch.multiprocessing.spawn(_run, args=(sample, args, path, processes), nprocs=processes)
    print(f"\n==> AMCT run {sample.script.name} in {time.perf_counter() - started:.1f}s")


def _run(rank: int, sample: CalibrationSample, args: argparse.Namespace, path: RetrainPath, processes: int) -> None:
    """One process: quantizes or restores, trains, and evaluates and saves on rank 0."""
    args.device = device = torch.device(f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
    if processes > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=args.dist_url, rank=rank, world_size=processes)
    torch.manual_seed(0)
    folders = Folders(sample.script, sample.network)
    folders.results.mkdir(parents=True, exist_ok=True)
    size = IMAGENET_SIZE if args.train_set else digits.IMAGE_SIZE
    loaders = make_loaders(args.train_set, args.eval_set, size, args.batch_size, args.num_parallel_reads, processes > 1)
    make = path.restored_model if args.from_checkpoint else path.new_model
    quant_model = make(sample, args, folders, loaders)
    model: nn.Module = quant_model
    if processes > 1:  # DistributedDataParallel wraps the quantized model, not the float model
        devices = [rank] if device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(quant_model, device_ids=devices)
    _train(model, quant_model, args, path, folders, loaders, rank)
    if rank == 0:
        written = (*folders.temporary.iterdir(), *folders.results.iterdir())
        print_files(sorted(file for file in written if file.is_file()))
    if processes > 1:
        dist.destroy_process_group()


def _train(
    model: nn.Module,
    quant_model: nn.Module,
    args: argparse.Namespace,
    path: RetrainPath,
    folders: Folders,
    loaders: Loaders,
    rank: int,
) -> None:
    """Trains for ``args.epochs`` epochs; ``model`` is ``quant_model`` or its DistributedDataParallel."""
    # The optimizer is created after the quantizers, because these have parameters too.
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=MOMENTUM)
    progress = _resume(args, optimizer) if args.from_checkpoint else Progress()
    if rank == 0 and not args.from_checkpoint:
        (folders.temporary / "results.csv").unlink(missing_ok=True)
    last = progress.epoch + args.epochs
    while progress.epoch < last:
        loaders.start_epoch(progress.epoch)
        # After one epoch the statistics fit the quantized network; then they are frozen, as in the deployed network.
        amct.freeze_batch_norm(model, progress.epoch > 0)
        loss = _train_epoch(model, optimizer, loaders, args, path, progress.epoch, rank)
        progress.epoch += 1
        if rank == 0:
            _finish_epoch(quant_model, optimizer, args, path, folders, loaders, progress, loss)
        if dist.is_initialized():
            dist.barrier()  # rank 0 evaluates for all
    if rank == 0:
        example = next(iter(loaders.evaluation))[0][:1]
        prefix = folders.checkpoint("last").with_suffix("")
        path.save(args, quant_model, folders, prefix, example)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loaders: Loaders,
    args: argparse.Namespace,
    path: RetrainPath,
    epoch: int,
    rank: int,
) -> float:
    """Returns the mean loss."""
    path.start_training(model)
    steps = len(loaders.train) if args.benchmark else min(args.train_iter, len(loaders.train))
    total = 0.0
    for step, (images, labels) in enumerate(itertools.islice(loaders.train, steps), start=1):
        loss = F.cross_entropy(model(images.to(args.device)), labels.to(args.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if rank == 0 and (step % args.print_freq == 0 or step == steps):
            print(f"epoch {epoch} step {step}/{steps} loss {total / step:.4f}", flush=True)
    return total / steps


def _finish_epoch(
    quant_model: nn.Module,
    optimizer: torch.optim.Optimizer,
    args: argparse.Namespace,
    path: RetrainPath,
    folders: Folders,
    loaders: Loaders,
    progress: Progress,
    loss: float,
) -> None:
    """Evaluates, writes results.csv, the checkpoints and the parameters of the epoch."""
    limit = None if args.benchmark else args.eval_iter
    accuracies = {}
    for mode in path.modes:
        path.start_evaluation(quant_model, mode)
        accuracies[mode] = evaluate_torch(quant_model, loaders.evaluation, limit, mode, args.device)
    print_accuracies(accuracies)
    _write_row(folders.temporary / "results.csv", progress.epoch - 1, loss, accuracies)
    deciding = accuracies[path.modes[-1]]
    is_best = deciding.top1 / deciding.images > progress.best_top1
    progress.best_top1 = max(progress.best_top1, deciding.top1 / deciding.images)
    content = {args.state_dict_name: quant_model.state_dict(), "optimizer": optimizer.state_dict()}
    content |= dataclasses.asdict(progress)
    for which in ("last", *(["best"] if is_best else [])):
        torch.save(content, folders.checkpoint(which))
    _write_parameters(quant_model, args, path, folders, loaders, progress.epoch - 1)


def _write_row(file: Path, epoch: int, loss: float, accuracies: dict[str, Accuracy]) -> None:
    shares = [f"{hits / one.images:.4f}" for one in accuracies.values() for hits in (one.top1, one.top5)]
    is_new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        columns = ("epoch", "loss", *(f"{mode}_{top}" for mode in accuracies for top in ("top1", "top5")))
        writer.writerows([columns] * is_new + [(epoch, f"{loss:.6f}", *shares)])


def _write_parameters(
    quant_model: nn.Module,
    args: argparse.Namespace,
    path: RetrainPath,
    folders: Folders,
    loaders: Loaders,
    epoch: int,
) -> None:
    """Writes the parameter file of an epoch, without the models, which would fill the disk."""
    suffix = "_quant_param_record.txt"
    prefix = folders.temporary / "epoch" / "model"
    path.save(args, quant_model, folders, prefix, next(iter(loaders.evaluation))[0][:1])
    Path(f"{prefix}{suffix}").replace(folders.results / f"{folders.network}_epoch_{epoch}{suffix}")
    for file in prefix.parent.iterdir():
        file.unlink()
    prefix.parent.rmdir()


def _resume(args: argparse.Namespace, optimizer: torch.optim.Optimizer) -> Progress:
    content = read_checkpoint(args.pt)
    optimizer.load_state_dict(content["optimizer"])
    for group in optimizer.param_groups:
        group["lr"] = args.learning_rate
    return Progress(content["epoch"], content["best_top1"])
