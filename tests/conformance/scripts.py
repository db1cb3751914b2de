"""Training scripts as other projects write them, without a word about quantization between their first and last line.

Each takes a model that may be quantized or not, trains it, and returns the model that the project would deploy.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.conformance.subject import batch, labels

Script = Callable[[nn.Module, Path], nn.Module]
SCRIPTS: dict[str, Script] = {}


def script(function: Script) -> Script:
    """Adds ``function`` to the list under its name."""
    SCRIPTS[function.__name__] = function
    return function


def batches(count: int = 4, first: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    for seed in range(first, first + count):
        yield batch(seed), labels(seed)


# --- torchvision: references/classification ---


@script
def torchvision_train_quantization(model: nn.Module, folder: Path) -> nn.Module:
    """Observers are disabled and BatchNorms frozen after some epochs, as torchvision's train_quantization.py does."""
    model.train()
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    for epoch in range(3):
        model.train()
        for image, target in batches():
            loss = F.cross_entropy(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        with torch.inference_mode():
            if epoch >= 1:
                model.apply(torch.ao.quantization.disable_observer)
                model.apply(torch.nn.intrinsic.qat.freeze_bn_stats)
            model.eval()
            for image, _ in batches(2):
                model(image)
        evaluated = copy.deepcopy(model)
        evaluated.eval()
        with torch.inference_mode():
            evaluated(batch(0))
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(checkpoint, folder / f"model_{epoch}.pth")
    return model


# --- timm: train.py ---


class TimmEmaV2(nn.Module):
    """timm.utils.ModelEmaV2: every entry of the state is averaged, integers too."""

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.module.eval()
        self.decay = decay

    def update(self, model: nn.Module) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
                mine.copy_(self.decay * mine + (1.0 - self.decay) * theirs)


class TimmEmaV3(nn.Module):
    """timm.utils.ModelEmaV3: floats are averaged by torch._foreach_lerp_, others copied; a warm-up of the decay."""

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.module.eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = max(min(1 - (1 + step) ** (-2 / 3), self.decay), 0.0)
        mine, theirs = [], []
        for ours, other in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if ours.is_floating_point():
                mine.append(ours), theirs.append(other)
            else:
                ours.copy_(other)
        torch._foreach_lerp_(mine, theirs, weight=1.0 - decay)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def adaptive_clip_grad(parameters: Iterable[Tensor], factor: float = 0.01, eps: float = 1e-3) -> None:
    def unitwise(x: Tensor) -> Tensor:
        return x.norm(2.0) if x.ndim <= 1 else x.norm(2.0, dim=tuple(range(1, x.ndim)), keepdim=True)

    for p in parameters:
        if p.grad is None:
            continue
        largest = unitwise(p.detach()).clamp_(min=eps).mul_(factor)
        norm = unitwise(p.grad.detach())
        p.grad.detach().copy_(torch.where(norm < largest, p.grad, p.grad * (largest / norm.clamp(min=1e-6))))


def _timm(model: nn.Module, average: Any) -> nn.Module:
    model.to(memory_format=torch.channels_last)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    decay, no_decay = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (no_decay if p.ndim <= 1 or name.endswith(".bias") else decay).append(p)
    groups = [{"params": no_decay, "weight_decay": 0.0}, {"params": decay, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    ema = average(model)
    scaler = torch.amp.GradScaler("cpu")
    generator = torch.Generator().manual_seed(0)
    step = 0
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        for index, (image, target) in enumerate(batches()):
            image = image.contiguous(memory_format=torch.channels_last)
            lam = float(torch.rand((), generator=generator))
            image = image * lam + image.flip(0) * (1.0 - lam)
            hot = F.one_hot(target, 5).float() * 0.9 + 0.02
            soft = hot * lam + hot.flip(0) * (1.0 - lam)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(image)
                loss = (-soft * F.log_softmax(output, -1)).sum(-1).mean() / 2
            scaler.scale(loss).backward()
            if index % 2:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
                adaptive_clip_grad(model.parameters())
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                step += 1
                ema.update(model, step) if isinstance(ema, TimmEmaV3) else ema.update(model)
        model.eval(), ema.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            for image, _ in batches(2):
                image = image.contiguous(memory_format=torch.channels_last)
                model(image), ema.module(image)
    return ema.module


@script
def timm_with_ema_v2(model: nn.Module, folder: Path) -> nn.Module:
    return _timm(model, TimmEmaV2)


@script
def timm_with_ema_v3(model: nn.Module, folder: Path) -> nn.Module:
    return _timm(model, TimmEmaV3)


# --- ultralytics: engine/trainer.py, utils/torch_utils.py ---


class UltralyticsEma:
    """ultralytics.utils.torch_utils.ModelEMA: floats only, a ramp of the decay."""

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000) -> None:
        self.ema = copy.deepcopy(model).eval()
        self.updates = 0
        self.decay = lambda updates: decay * (1 - math.exp(-updates / tau))
        for p in self.ema.parameters():
            p.requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = self.decay(self.updates)
        state = model.state_dict()
        for name, value in self.ema.state_dict().items():
            if value.dtype.is_floating_point:
                value *= decay
                value += (1 - decay) * state[name].detach()


@script
def ultralytics_trainer(model: nn.Module, folder: Path) -> nn.Module:
    """All parameters are made trainable, three groups, warm-up, accumulation, validation in half, strip_optimizer."""
    for name, p in model.named_parameters():
        if ".dfl" not in name and not p.requires_grad and p.dtype.is_floating_point:
            p.requires_grad = True
    groups: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    norms = tuple(v for k, v in nn.__dict__.items() if "Norm" in k)
    for module_name, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}" if module_name else name
            groups[2 if "bias" in full else 1 if isinstance(module, norms) else 0].append(p)
    optimizer = torch.optim.SGD(groups[2], lr=0.01, momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": groups[0], "weight_decay": 5e-4})
    optimizer.add_param_group({"params": groups[1], "weight_decay": 0.0})
    ema, accumulate, done, last = UltralyticsEma(model), 1, 0, -1
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        for image, target in batches():
            done += 1
            if done <= 4:  # warm-up
                accumulate = max(1, round(1 + done / 4))
                for index, group in enumerate(optimizer.param_groups):
                    group["lr"] = 0.1 - 0.02 * done if index == 0 else 0.0025 * done
            loss = F.cross_entropy(model(image), target)
            loss.backward()
            if done - last >= accumulate:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
                optimizer.step()
                optimizer.zero_grad()
                ema.update(model)
                last = done
        validated = ema.ema
        validated.half()
        validated.eval()
        with torch.no_grad():
            for image, _ in batches(2):
                validated(image.half())
        validated.float()
        checkpoint = {"model": None, "ema": copy.deepcopy(ema.ema).half(), "updates": ema.updates}
        torch.save(checkpoint | {"optimizer": optimizer.state_dict()}, folder / "last.pt")
    stripped = torch.load(folder / "last.pt", weights_only=False)
    stripped["model"] = stripped["ema"]
    stripped["optimizer"] = stripped["ema"] = None
    stripped["model"].half()
    for p in stripped["model"].parameters():
        p.requires_grad = False
    torch.save(stripped, folder / "best.pt")
    return torch.load(folder / "best.pt", weights_only=False)["model"].float().eval()


# --- wrappers ---


@script
def lightning_trainer(model: nn.Module, folder: Path) -> nn.Module:
    """A sanity check in eval mode first, closures, toggled parameters, a checkpoint of the whole module."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.example_input_array = batch(0)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    module = Module()
    with torch.set_grad_enabled(False):  # sanity check
        module.eval()
        for image, _ in batches(2):
            module(image)
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for image, target in batches(6):

        def closure(image: Tensor = image, target: Tensor = target) -> Tensor:
            kept = {p: p.requires_grad for p in module.parameters()}
            for p in module.parameters():
                p.requires_grad = False
            for p, needed in kept.items():
                p.requires_grad = needed
            loss = F.cross_entropy(module(image), target)
            optimizer.zero_grad()
            loss.backward()
            return loss

        optimizer.step(closure)
    torch.save({"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}, folder / "last.ckpt")
    module.load_state_dict(torch.load(folder / "last.ckpt", weights_only=True)["state_dict"])
    module.eval()
    return module.model


def _to_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs).float()

    return wrapped


def _accelerated(model: nn.Module, *, is_unwrapped: bool) -> nn.Module:
    model._original_forward = model.forward
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    bound = hasattr(model.forward, "__func__")
    forward = autocast(model.forward.__func__ if bound else model.forward)
    model.forward = MethodType(_to_float32(forward), model) if bound else _to_float32(forward)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for index, (image, target) in enumerate(batches(6)):
        F.cross_entropy(model(image), target).div(2).backward()
        if index % 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    if is_unwrapped:
        forward = model.__dict__.pop("forward")
        original = model.__dict__.pop("_original_forward")
        while hasattr(forward, "__wrapped__"):
            forward = forward.__wrapped__
            if forward == original:
                break
        model.forward = forward if not bound else original
    return model


@script
def accelerate_unwrapped(model: nn.Module, folder: Path) -> nn.Module:
    return _accelerated(model, is_unwrapped=True)


@script
def accelerate_not_unwrapped(model: nn.Module, folder: Path) -> nn.Module:
    """The wrapper stays; it rounds to 16 bits."""
    return _accelerated(model, is_unwrapped=False)


@script
def hugging_face_trainer(model: nn.Module, folder: Path) -> nn.Module:
    """Groups by module type, label smoothing, a state without shared memory as safetensors wants it, best reloaded."""
    norms = {
        f"{path}.{name}" for path, one in model.named_modules() if isinstance(one, nn.BatchNorm2d)
        for name in one._parameters
    }  # fmt: skip
    decayed = [name for name, _ in model.named_parameters() if name not in norms and "bias" not in name]
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in decayed and p.requires_grad], "weight_decay": 0.01},
        {"params": [p for n, p in model.named_parameters() if n not in decayed and p.requires_grad]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 2))
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    for epoch in range(2):
        model.train()
        for image, target in batches():
            logits = model(image)
            log_probs = -F.log_softmax(logits, dim=-1)
            loss = 0.9 * log_probs.gather(1, target[:, None]).mean() + 0.1 * log_probs.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            model.zero_grad()
        model.eval()
        with torch.no_grad():
            loss = sum(F.cross_entropy(model(image), target) for image, target in batches(2))
        state = _without_shared_memory(model.state_dict())
        if epoch == 0 or loss < best[0]:
            best = float(loss), {k: v.detach().cpu().clone() for k, v in state.items()}
    model.load_state_dict(best[1], strict=False)  # as safetensors.torch.load_model does
    assert all(torch.equal(model.state_dict()[name], value) for name, value in best[1].items())
    return model


def _without_shared_memory(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors.torch.save_model: one name for each memory."""
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(value.untyped_storage().data_ptr() if value.numel() else id(value), name)
    return {name: state[name] for name in first.values()}


# --- others ---


@script
def distillation(model: nn.Module, folder: Path) -> nn.Module:
    """A teacher, and features of both taken by hooks."""
    torch.manual_seed(5)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    features: dict[str, Tensor] = {}
    handles = [
        model.conv2.register_forward_hook(lambda module, args, output: features.update(student=output)),
        teacher[0].register_forward_hook(lambda module, args, output: features.update(teacher=output)),
    ]
    optimizer = torch.optim.SGD([{"params": model.parameters()}], lr=0.01)
    model.train()
    for image, target in batches():
        output = model(image)
        with torch.no_grad():
            soft = teacher(image)
        loss = F.kl_div(F.log_softmax(output / 4, 1), F.softmax(soft / 4, 1), reduction="batchmean") * 16
        loss = loss + F.mse_loss(features["student"], features["teacher"]) + F.cross_entropy(output, target)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    for one in handles:
        one.remove()
    return model


@script
def gan(model: nn.Module, folder: Path) -> nn.Module:
    """The model is the discriminator: called on real and on generated images, frozen while the generator trains."""
    torch.manual_seed(6)
    generator = nn.Conv2d(3, 3, 1)
    optimizer_d = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    model.train()
    for image, _ in batches():
        fake = generator(image)
        for p in model.parameters():
            p.requires_grad_(True)
        optimizer_d.zero_grad()
        real_loss = F.relu(1 - model(image)).mean()
        real_loss.backward()
        F.relu(1 + model(fake.detach())).mean().backward()
        optimizer_d.step()
        for p in model.parameters():
            p.requires_grad_(False)
        optimizer_g.zero_grad()
        before = copy.deepcopy([p.detach() for p in (model.conv1.weight, model.conv3.weight, model.fc.bias)])
        (-model(fake)).mean().backward()
        optimizer_g.step()
        assert generator.weight.grad is not None and bool(generator.weight.grad.abs().sum() > 0)
        assert all(map(torch.equal, before, (model.conv1.weight, model.conv3.weight, model.fc.bias)))
    return model


@script
def swa(model: nn.Module, folder: Path) -> nn.Module:
    averaged = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = SWALR(optimizer, swa_lr=0.005)
    for _ in range(3):
        model.train()
        for image, target in batches(2):
            optimizer.zero_grad()
            F.cross_entropy(model(image), target).backward()
            optimizer.step()
        averaged.update_parameters(model)
        scheduler.step()
    update_bn(list(batches()), averaged)
    assert int(averaged.module.bn1.num_batches_tracked) == 4
    return averaged.module


@script
def average_with_buffers(model: nn.Module, folder: Path) -> nn.Module:
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for image, target in batches(6):
        optimizer.zero_grad()
        F.cross_entropy(model(image), target).backward()
        optimizer.step()
        averaged.update_parameters(model)
    return averaged.module


@script
def stages_with_frozen_layers(model: nn.Module, folder: Path) -> nn.Module:
    for name, p in model.named_parameters():
        p.requires_grad = "fc" in name
    model.train()
    for stage in range(2):
        optimizer = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.01)
        for image, target in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(image), target).backward()
            optimizer.step()
        if stage == 0:
            model.requires_grad_(True)
    return model.requires_grad_(False)


@script
def weights_only_by_name(model: nn.Module, folder: Path) -> nn.Module:
    """Only what the float model had is trained; the parameters go through a vector."""
    chosen = [p for name, p in model.named_parameters() if name.startswith(("conv", "fc", "bn"))]
    assert len(chosen) == 11
    optimizer = torch.optim.RMSprop(chosen, lr=1e-4)
    model.train()
    for image, target in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(image), target).backward()
        optimizer.step()
        vector = nn.utils.parameters_to_vector(model.parameters())
        nn.utils.vector_to_parameters(vector * 0.999, model.parameters())
    return model


@script
def second_order(model: nn.Module, folder: Path) -> nn.Module:
    """SAM (two forwards per step on other weights), then L-BFGS with its closures."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for image, target in batches():
        F.cross_entropy(model(image), target).backward()
        moved = [(p, p.grad / (p.grad.norm() + 1e-12) * 0.01) for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            for p, step in moved:
                p.add_(step)
        optimizer.zero_grad()
        F.cross_entropy(model(image), target).backward()
        with torch.no_grad():
            for p, step in moved:
                p.sub_(step)
        optimizer.step()
        optimizer.zero_grad()
    # The head only: L-BFGS sums over all its parameters, and the quantized model has more, in another order.
    head = [p for name, p in model.named_parameters() if name in ("fc.weight", "fc.bias")]
    newton = torch.optim.LBFGS(head, lr=0.01, max_iter=2)

    def closure() -> Tensor:
        newton.zero_grad()
        loss = F.cross_entropy(model(batch(11)), labels(11))
        loss.backward()
        return loss

    newton.step(closure)
    return model


@script
def best_of_copies(model: nn.Module, folder: Path) -> nn.Module:
    """Evaluates after each epoch, keeps the best state and loads it at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    best: tuple[float, Any] = (math.inf, None)
    for epoch in range(3):
        model.train()
        for image, target in batches(3):
            optimizer.zero_grad()
            F.cross_entropy(model(image), target).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = float(sum(F.cross_entropy(model(image), target) for image, target in batches(2)))
        if epoch == 1:  # the best one, whatever its loss
            best = loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(best[1])
    return model


@script
def examples_in_worker_processes(model: nn.Module, folder: Path) -> nn.Module:
    """A data set that runs the model in its workers, and one of a pickled copy."""

    class Hard(torch.utils.data.Dataset):
        def __init__(self, model: nn.Module) -> None:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            self.model = torch.load(file, weights_only=False).eval()

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
            with torch.no_grad():
                return batch(index, 1)[0], self.model(batch(index, 1))[0], int(labels(index, 1))

    model.train()
    with torch.no_grad():
        model.eval(), model(batch(0)), model(batch(1))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for image, hint, target in torch.utils.data.DataLoader(Hard(model), batch_size=4, num_workers=2):
        optimizer.zero_grad()
        output = model(image)
        (F.cross_entropy(output, target) + F.mse_loss(output, hint)).backward()
        optimizer.step()
    return model


@script
def initialized_again(model: nn.Module, folder: Path) -> nn.Module:
    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 1)
            nn.init.constant_(module.bias, 0)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)

    torch.manual_seed(3), random.seed(3)
    model.apply(init)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for image, target in batches():
        optimizer.zero_grad(set_to_none=True)
        with contextlib.nullcontext():
            F.cross_entropy(model(image), target).backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
    return model
