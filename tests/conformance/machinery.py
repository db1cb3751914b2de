"""The list of PyTorch features that scripts use with a model. Each runs on both paths, calibrated and trained.

docs/machinery.md shows this list as a table.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.conformance.subject import PTQ, QAT, Subject, batch

convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
Change = Callable[[nn.Module, Subject], nn.Module]
Call = Callable[[nn.Module, Tensor], Tensor]
Around = Callable[[], AbstractContextManager[Any]]


def _as_it_is(model: nn.Module, subject: Subject) -> nn.Module:
    return model


def _called(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machinery:
    """One thing that scripts do with a model, and what is right then.

    Attributes:
      id: What it is, for the reader of the table.
      before: What is done to the quantized model before its ranges are known.
      after: What is done to it when they are.
      watching: A context around every forward without gradients.
      training: A context around every forward with gradients.
      calibrate: How the model is called while its ranges are searched for.
      evaluate: How it is called in evaluation.
      train: How it is called in forwards with gradients.
      copies: A second model that is made before the ranges are known and follows the first by its state; it is the one
        that is evaluated.
      atol: Largest difference of outputs and states from the plain run; 0 means to the bit.
      freezes: Whether the BatchNorms keep their statistics in training, here and in the plain run.
      refusal: Text of the error that is right instead, a regular expression.
      uses: PTQ, QAT or both.
    """

    id: str
    before: Change = _as_it_is
    after: Change = _as_it_is
    watching: Around = contextlib.nullcontext
    training: Around = contextlib.nullcontext
    calibrate: Call = _called
    evaluate: Call = _called
    train: Call = _called
    copies: Callable[[nn.Module], Follower] | None = None
    atol: float = 0.0
    freezes: bool = False
    refusal: str = ""
    uses: tuple[str, ...] = (PTQ, QAT)


class Follower:
    """An average of a model, made by a copy and updated in place through the state: YOLO's ModelEMA with decay 0."""

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model).eval()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            mine.copy_(theirs)


class Averaged(Follower):
    """torch's average of parameters and buffers, updated with two equal states."""

    def __init__(self, model: nn.Module) -> None:
        self._average = AveragedModel(model, use_buffers=True).eval()
        self.module = self._average.module

    def update(self, model: nn.Module) -> None:
        self._average.update_parameters(model), self._average.update_parameters(model)


# --- ways to copy ---


def _deepcopied(model: nn.Module, subject: Subject) -> nn.Module:
    return copy.deepcopy(model)


def _shallowly_copied(model: nn.Module, subject: Subject) -> nn.Module:
    return copy.copy(model)


def _pickled(model: nn.Module, subject: Subject) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _loaded(model: nn.Module, subject: Subject, **how: Any) -> nn.Module:
    fresh = subject.make()
    fresh.load_state_dict(model.state_dict(), **how)
    subject.switch(fresh)
    return fresh


def _loaded_by_assignment(model: nn.Module, subject: Subject) -> nn.Module:
    return _loaded(model, subject, assign=True)


def _older_loaded(model: nn.Module, subject: Subject) -> nn.Module:
    """A checkpoint that was made before the script froze the BatchNorms."""
    state = model.state_dict()
    state["amct_layers._freezes_batch_norm"] = torch.zeros(())
    model.load_state_dict(state)
    return model


def _restored(model: nn.Module, subject: Subject) -> nn.Module:
    torch.save(model.state_dict(), subject.folder / "state.pt")
    return subject.restore(subject.folder / "state.pt")


def _buffers_sent(model: nn.Module, subject: Subject) -> nn.Module:
    """What DistributedDataParallel does with the model of another rank: it writes parameters and buffers in place."""
    fresh = subject.make()
    with torch.no_grad():
        for kind in ("parameters", "buffers"):
            for mine, theirs in zip(getattr(fresh, kind)(), getattr(model, kind)(), strict=True):
                mine.copy_(theirs)
    subject.switch(fresh)
    return fresh


class LowRank(nn.Module):
    """LoRA, as peft puts it in the place of a Linear."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class FrozenBatchNorm(nn.Module):
    """As torchvision has it: four buffers."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach())
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def _replaced(path: str, make: Callable[[Any], nn.Module]) -> Change:
    def change(model: nn.Module, subject: Subject) -> nn.Module:
        setattr(model, path, make(getattr(model, path)))
        return model

    return change


def _shared(model: nn.Module, subject: Subject) -> nn.Module:
    return model.share_memory()


def _compiled_in_place(model: nn.Module, subject: Subject) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


def _back_from_sync(model: nn.Module, subject: Subject) -> nn.Module:
    """convert_sync_batchnorm, and each BatchNorm back again as scripts do before an export."""
    model = convert_sync_batchnorm(model)
    for path, one in list(model.named_modules()):
        if isinstance(one, nn.SyncBatchNorm):
            back = nn.BatchNorm2d(one.num_features, one.eps, one.momentum).train(one.training)
            back.load_state_dict(one.state_dict())
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent)._modules[name] = back
    return model


def _wrapped(wrapper: Callable[[nn.Module], nn.Module]) -> Change:
    return lambda model, subject: wrapper(model)


class Trainer(nn.Module):
    """A LightningModule, as far as the model sees it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Any:
        return self.model(*args)


def _prepared(model: nn.Module, subject: Subject) -> nn.Module:
    """What accelerate does with mixed precision: another forward on the instance, which ends in float32."""
    forward = model.forward
    model._original_forward = forward

    def to_float32(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs).float()

    model.forward = to_float32
    return model


def _replicated(model: nn.Module, subject: Subject) -> nn.Module:
    """What a forward of DataParallel begins with where there are several devices."""
    for module in model.modules():
        module._replicate_for_data_parallel()
    return model


def _sharded(model: nn.Module, subject: Subject) -> nn.Module:
    """Sharded over one process; torch itself refuses scalar parameters unless they are ignored."""
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{subject.folder}/store", rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        return fully_shard(model, mesh=mesh, ignored_params={one for one in model.parameters() if not one.dim()})
    finally:
        dist.destroy_process_group()


def _wrapped_in_shards(model: nn.Module, subject: Subject) -> nn.Module:
    """FSDP1 over one process; torch itself refuses scalar parameters unless they are ignored."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{subject.folder}/store", rank=0, world_size=1)
    try:
        scalars = [one for one in model.parameters() if not one.dim()]
        return FullyShardedDataParallel(model, ignored_states=scalars, device_id=torch.device("cpu"))
    finally:
        dist.destroy_process_group()


# --- ways to call ---


def _functional(model: nn.Module, x: Tensor) -> Tensor:
    return torch.func.functional_call(model, {**dict(model.named_parameters()), **dict(model.named_buffers())}, (x,))


def _from_threads(model: nn.Module, x: Tensor) -> Tensor:
    """The model in four threads at once, on four inputs; one of these is ``x``."""
    results: dict[int, Tensor] = {}
    grad_mode, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work(index: int) -> None:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad_mode):
            for _ in range(10):
                results[index] = model(x if index == 0 else x.roll(index, 0) * (1 + index))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return results[0]


def _traced(model: nn.Module, subject: Subject) -> nn.Module:
    return torch.jit.trace(model, batch(0), check_trace=False)


def _exported(model: nn.Module, subject: Subject) -> nn.Module:
    return torch.export.export(model, (batch(0),)).module()


def _exported_to_onnx(model: nn.Module, subject: Subject) -> nn.Module:
    torch.onnx.export(model, (batch(0),), subject.folder / "users.onnx", dynamo=False)
    return model


def _mapped(model: nn.Module, x: Tensor) -> Tensor:
    return torch.func.vmap(lambda image: model(image[None])[0])(x)


def _checkpointed(**how: Any) -> Call:
    return lambda model, x: checkpoint(model, x.clone().requires_grad_(), **how)


def _checkpointed_twice(model: nn.Module, x: Tensor) -> Tensor:
    def inner(x: Tensor) -> Tensor:
        return checkpoint(model, x, use_reentrant=False)

    return checkpoint(inner, x.clone().requires_grad_(), use_reentrant=False)


MACHINERY = [
    Machinery(id="torch.no_grad", watching=torch.no_grad),
    Machinery(id="torch.inference_mode", watching=torch.inference_mode),
    Machinery(id="copy.deepcopy before calibration", before=_deepcopied),
    Machinery(id="copy.deepcopy", after=_deepcopied),
    Machinery(id="copy.copy", after=_shallowly_copied),
    Machinery(id="torch.save(model) before calibration", before=_pickled),
    Machinery(id="torch.save(model)", after=_pickled),
    Machinery(id="load_state_dict", after=_loaded),
    Machinery(id="load_state_dict(assign=True)", after=_loaded_by_assignment),
    Machinery(id="load_state_dict behind freeze_batch_norm", after=_older_loaded, freezes=True, uses=(QAT,)),
    Machinery(id="restore from a checkpoint", after=_restored),
    Machinery(id="buffers and parameters written in place", after=_buffers_sent),
    Machinery(id="moving average made before the ranges", copies=Follower),
    Machinery(id="AveragedModel(use_buffers=True)", copies=Averaged),
    Machinery(id="convert_sync_batchnorm before calibration", before=_wrapped(convert_sync_batchnorm)),
    Machinery(id="convert_sync_batchnorm", after=_wrapped(convert_sync_batchnorm)),
    Machinery(id="convert_sync_batchnorm and back", after=_back_from_sync),
    Machinery(id="share_memory", after=_shared),
    Machinery(
        id="new head",
        after=_replaced("fc", lambda old: nn.Linear(4, 3)),
        refusal="'fc'.*Linear.* by Linear",
    ),
    Machinery(id="LoRA", after=_replaced("fc", LowRank), refusal="'fc'.*was replaced: Linear.* by LowRank"),
    Machinery(
        id="frozen BatchNorm classes", after=_replaced("bn1", FrozenBatchNorm), refusal="'bn1'.*freeze_batch_norm"
    ),
    Machinery(
        id="BatchNorm without statistics",
        after=_replaced("bn1", lambda old: nn.BatchNorm2d(4, track_running_stats=False)),
        refusal="'bn1'.*was replaced: .*track_running_stats=False",
    ),
    Machinery(id="LightningModule", before=_wrapped(Trainer)),
    Machinery(id="accelerate.prepare", before=_prepared),
    Machinery(id="torch.func.functional_call", calibrate=_functional, evaluate=_functional, train=_functional),
    Machinery(id="torch.func.vmap", evaluate=_mapped, refusal="inside a transform of torch.func"),
    Machinery(id="torch.compile", after=_wrapped(functools.partial(torch.compile, backend="aot_eager"))),
    Machinery(id="Module.compile", after=_compiled_in_place),
    Machinery(id="torch.jit.trace", after=_traced, refusal="cannot be traced.*save_quant_model_fx"),
    Machinery(id="torch.jit.script", after=_wrapped(torch.jit.script), refusal="cannot be traced"),
    Machinery(id="torch.export", after=_exported, refusal="cannot be traced"),
    Machinery(id="torch.onnx.export", after=_exported_to_onnx, refusal="cannot be traced"),
    Machinery(id="threads, evaluation", evaluate=_from_threads),
    Machinery(
        id="checkpoint(use_reentrant=False)", train=_checkpointed(use_reentrant=False), freezes=True, uses=(QAT,)
    ),
    Machinery(id="checkpoint(use_reentrant=True)", train=_checkpointed(use_reentrant=True), freezes=True, uses=(QAT,)),
    Machinery(id="checkpoint inside checkpoint", train=_checkpointed_twice, freezes=True, uses=(QAT,)),
    Machinery(id="detect_anomaly", training=torch.autograd.detect_anomaly),
    Machinery(id="save_on_cpu", training=torch.autograd.graph.save_on_cpu),
    Machinery(
        id="saved_tensors_hooks",
        training=lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy(), torch.from_numpy),
    ),
    Machinery(
        id="disable_saved_tensors_hooks",
        training=lambda: torch.autograd.graph.disable_saved_tensors_hooks("saved tensors are not hooked here"),
    ),
    Machinery(id="fully_shard", after=_sharded, refusal="cannot be sharded.*DistributedDataParallel"),
    Machinery(
        id="FullyShardedDataParallel",
        after=_wrapped_in_shards,
        refusal="cannot be sharded.*FullyShardedDataParallel.*DistributedDataParallel",
    ),
    Machinery(
        id="DataParallel",
        after=_replicated,
        refusal="cannot run in DataParallel.*DistributedDataParallel",
    ),
]
