"""Prepares the model that a user passes: unwraps it, casts it to float32, or refuses it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from ...errors import UnsupportedModelError
from ...log import get_logger
from ...torch_private import pytree
from .rebound_functions import rebind_functions
from .weight_hooks import stored_tensors

_log = get_logger(__name__)

# Classes by name and package, since importing them would take seconds or is not possible.
_COMPILED = ("OptimizedModule", "torch._dynamo")
_SHARDED = ("FullyShardedDataParallel", "torch.distributed")
_ADAPTED = ("PeftModel", "peft")
_SHARDED_TENSOR = ("DTensor", "torch.distributed")


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside the known wrappers, such as DistributedDataParallel; else ``model`` itself.

    Raises:
      UnsupportedModelError: The model's parameters or code are not accessible; the text says what to pass instead.
    """
    while True:
        inner = inside_wrapper(model)
        if inner is None:
            break
        _log.info("The model inside %s is taken.", type(model).__name__)
        model = inner
    _refuse_class(model)
    _refuse_parameters(model)
    return model


def inside_wrapper(module: nn.Module) -> nn.Module | None:
    """Returns the module inside the wrapper ``module``; None if ``module`` is no known wrapper."""
    inside: nn.Module | None = None
    if isinstance(module, (DataParallel, DistributedDataParallel, AveragedModel)):
        inside = module.module
    elif _is_of(type(module), _COMPILED):
        inside = module.get_submodule("_orig_mod")
    return inside


def needs_float32(model: nn.Module) -> bool:
    """Whether parameters or buffers of ``model`` are floats of another type than float32."""
    return any(one.is_floating_point() and one.dtype != torch.float32 for one in _tensors(model))


def cast_to_float32(model: nn.Module, purpose: str = "a copy in float32 is quantized") -> None:
    """Casts ``model``, a copy, in place and logs it with its ``purpose``; no effect on a float32 model."""
    if not needs_float32(model):
        return
    types = sorted({str(one.dtype).removeprefix("torch.") for one in _tensors(model) if one.is_floating_point()})
    _log.info("The model has parameters or buffers of %s; %s.", ", ".join(types), purpose)
    model.float()


def advice_on_types(error: Exception) -> str:
    """Returns a way out if ``error`` comes of other floating types than float32; else empty."""
    if not re.search(r"\b(Half|BFloat16|half|bfloat16|Double|double)\b", str(error)):
        return ""
    return (
        "The copy that is quantized has float32 parameters, but an input or a cast in the forward (x.half(),"
        " dtype=torch.float16) has another type: write x.to(self.conv.weight.dtype), which fits both."
    )


def in_float32(inputs: Any) -> Any:
    """Returns ``inputs``, tensors in containers, with float32 in place of other floating types."""
    return pytree.tree_map(lambda one: one.float() if _is_other_float(one) else one, inputs)


def refuse_arrays(args: Iterable[Any]) -> None:
    """Raises TypeError if one of the arguments of a forward is a NumPy array."""
    for index, one in enumerate(args):
        if isinstance(one, np.ndarray):
            raise TypeError(
                f"Argument {index} of the model is a numpy.ndarray of shape {one.shape}, not a tensor: pass"
                " torch.from_numpy(array)."
            )


def copied(model: nn.Module, copies_parameters: bool) -> nn.Module:
    """Returns a copy of ``model`` in float32; without ``copies_parameters`` it shares those that need no cast.

    Raises:
      UnsupportedModelError: The model cannot be copied.
    """
    shared: Iterable[Tensor] = () if copies_parameters or needs_float32(model) else model.parameters()
    try:
        memo: dict[int, Any] = {id(tensor): tensor for tensor in (*shared, *stored_tensors(model))}
        result = copy.deepcopy(model, memo)
        rebind_functions(result, memo)
    except Exception as error:
        msg = (
            f"The model {type(model).__name__} cannot be copied ({error}), and quantization works on a copy. Tensors"
            " which are results of a computation and stored on the model are the usual reason: detach them."
        )
        raise UnsupportedModelError(msg) from error
    cast_to_float32(result)
    return result


def _is_other_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32


def _refuse_class(model: nn.Module) -> None:
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        msg = f"{name} is a TorchScript model, which has no Python code. Pass the module it was made from."
        raise UnsupportedModelError(msg)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(_of_torchscript(name, path, module))
    if any(_is_of(type(module), _SHARDED) for module in model.modules()):
        msg = f"{name} contains FullyShardedDataParallel, whose parameters are shards. Pass the model before sharding."
        raise UnsupportedModelError(msg)
    if _is_of(type(model), _ADAPTED):
        msg = f"{name} is a PEFT model. Pass the result of its merge_and_unload()."
        raise UnsupportedModelError(msg)


def _of_torchscript(name: str, path: str, module: torch.jit.ScriptModule) -> str:
    made_from = getattr(module, "original_name", "")
    return (
        f"{name}: its submodule '{path}' is TorchScript ({made_from}), which has no Python code, so its layers cannot"
        " be quantized. Put the module in its place that it was made from, with the weights in its state_dict(); delete"
        " it if the forward does not call it."
    )


def _refuse_parameters(model: nn.Module) -> None:
    for name, one in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(one):
            msg = f"'{name}' is not initialized (a lazy module). Run the model once before it is quantized."
        elif one.is_meta:
            msg = f"'{name}' is on the device 'meta' and has no values. Load the weights before it is quantized."
        elif _is_of(type(one), _SHARDED_TENSOR):
            msg = f"'{name}' is a shard (DTensor). Pass the model with whole parameters."
        else:
            continue
        raise UnsupportedModelError(f"{type(model).__name__}: {msg}")


def _is_of(cls: type, described: tuple[str, str]) -> bool:
    name, package = described
    return any(one.__name__ == name and f"{one.__module__}.".startswith(f"{package}.") for one in cls.__mro__)


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
