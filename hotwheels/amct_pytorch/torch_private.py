"""The private and deprecated names of torch: the only module that uses them.

A release of torch may drop or move any of them. Each name is looked up when it is needed, at all places where torch has
or had it. Where torch lacks a name there is a fallback of our own, or else `TorchVersionError`, which says what cannot
be done and which versions can. `NAMES` lists them all; a test hides each one in turn.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor, nn

from . import trees
from .errors import TorchVersionError
from .version import TESTED_TORCH

# The name, and what is lost without it. Other places of the same object stand behind a bar.
NAMES = MappingProxyType(
    {
        # Fallbacks of our own exist:
        "torch.utils._pytree": "containers that other packages have registered with torch, as arguments and results",
        "torch._C._storage_Use_Count": "gradients that are overwritten in place, which saves memory in training",
        "torch.Tensor._use_count": "gradients that are overwritten in place, which saves memory in training",
        "torch.autograd.Function._backward_cls": "activations that are rounded again, which saves memory in training",
        "torch.nn.modules.module._global_forward_hooks": "activations that are quantized in place, which saves memory",
        "torch.nn.modules.batchnorm._BatchNorm": "BatchNorm classes that derive from none of torch.nn's public ones",
        "torch._C._autograd._top_saved_tensors_default_hooks": "activations that are rounded again, and siblings that"
        " share a quantized tensor, which save memory and time in training",
        "torch._C._current_graph_task_id": "checkpointing in forwards that calibrate: a repeated forward counts again",
        "torch.jit._trace.TracerWarning|torch.jit.TracerWarning": "torch's warnings about traces told from others",
        "torch._C._get_tracing_state": "models that ask torch whether they are traced get the answer no",
        "torch._C._jit_is_onnx_log_enabled": "a silent failure of torch's ONNX exporter",
        "torch._C._jit_set_onnx_log_enabled": "a silent failure of torch's ONNX exporter",
        "torch.fx.graph._custom_builtins": "nothing but names that newer code of torch.fx may use",
        "torch.ao.quantization.FakeQuantizeBase": "our quantizers as instances of torch's base class",
        "torch.ao.quantization.ObserverBase": "our observers as instances of torch's base class",
        # Errors where they are used:
        "torch.Tensor._version": "quantized models in the modes calibration and fake_quant",
        "torch._C.DisableTorchFunctionSubclass|torch._C.DisableTorchFunction": "real_quant",
        "torch._C.DisableTorchFunction": "real_quant and export on the dynamic path",
        "torch._C._EnableTorchFunction": "real_quant of functions that torch.fx does not look into",
        "torch._C._set_tracing_state": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.TrainingMode": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.errors.UnsupportedOperatorError": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.register_custom_op_symbolic": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.unregister_custom_op_symbolic": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.symbolic_helper.parse_args": "ONNX files written by torch's TorchScript-based exporter",
    }
)


def missing_names() -> dict[str, str]:
    """Returns the names that this torch does not have, each with what is lost without it."""
    return {name: lost for name, lost in NAMES.items() if find(name) is None}


@functools.cache
def find(name: str) -> Any:
    """Returns the object of one of `NAMES`; None if this torch does not have it."""
    assert name in NAMES, name
    return next((found for found in map(_look_up, name.split("|")) if found is not None), None)


def require(name: str) -> Any:
    """Returns the object of one of `NAMES`.

    Raises:
      TorchVersionError: This torch does not have it.
    """
    found = find(name)
    if found is None:
        low, high = TESTED_TORCH
        raise TorchVersionError(
            f"torch {torch.__version__} has no '{name.partition('|')[0]}' any more, and without it this is lost:"
            f" {NAMES[name]}. Install a version that was tested: pip install 'torch>={low},<{high}'."
        )
    return found


def _look_up(path: str) -> Any:
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found
    return None


# --- nested arguments ---

if TYPE_CHECKING:
    from torch.utils import _pytree

    pytree = _pytree
else:
    pytree = find("torch.utils._pytree") or trees


# --- tensors and autograd ---


def version_of(tensor: Tensor) -> int:
    """Returns how often ``tensor`` was changed in place."""
    require("torch.Tensor._version")
    return tensor._version


def reference_counts(tensor: Tensor) -> tuple[int, int, int] | None:
    """Returns how many hold ``tensor``, its memory and its Python object; None if torch does not tell.

    The last number counts the references of the caller and of this function, too.
    """
    count_storage, count_tensor = find("torch._C._storage_Use_Count"), find("torch.Tensor._use_count")
    address = getattr(tensor.untyped_storage(), "_cdata", None)
    if None in (count_storage, count_tensor, address):
        return None
    return count_tensor(tensor), count_storage(address), sys.getrefcount(tensor)


def was_made_by(tensor: Tensor, *functions: type[torch.autograd.Function]) -> bool:
    """Whether ``tensor`` is the result of one of these autograd functions; False if torch does not tell."""
    if find("torch.autograd.Function._backward_cls") is None:
        return False
    return isinstance(tensor.grad_fn, tuple(function._backward_cls for function in functions))


def saved_tensors_hooks() -> object | None:
    """Returns the hooks that say what becomes of tensors saved now; None if there are none.

    Where torch does not tell, an object that equals nothing: there may be hooks, others each time.
    """
    hooks = find("torch._C._autograd._top_saved_tensors_default_hooks")
    return object() if hooks is None else hooks(True)


def is_in_backward() -> bool:
    """Whether a backward runs in this thread; False if torch does not tell."""
    task = find("torch._C._current_graph_task_id")
    return task is not None and task() != -1


# --- modules ---
#
# The registries of nn.Module (_parameters, _buffers, _modules and these) are in every pickled module: they stay.


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether somebody sees what ``module`` returns."""
    return bool(module._forward_hooks)


def has_global_forward_hooks() -> bool:
    """Whether somebody may see what every module returns; True if torch does not tell."""
    hooks = find("torch.nn.modules.module._global_forward_hooks")
    return hooks is None or bool(hooks)


# For isinstance: a BatchNorm of any number of dimensions, a SyncBatchNorm, or a class derived from one.
if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm

    BatchNorm = _BatchNorm
else:
    _BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    BatchNorm = find("torch.nn.modules.batchnorm._BatchNorm") or _BATCH_NORMS


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Returns the names of the buffers of ``module`` itself that its state_dict does not hold; may be changed."""
    return module._non_persistent_buffers_set


def register_base_classes(fake_quantize: type[nn.Module], observer: type[nn.Module]) -> None:
    """Makes our base classes virtual subclasses of torch's, for ``isinstance``; does nothing if torch has none."""
    pairs = (("FakeQuantizeBase", fake_quantize), ("ObserverBase", observer))
    for name, ours in pairs:
        theirs = find(f"torch.ao.quantization.{name}")
        if hasattr(theirs, "register"):  # of an abstract base class
            theirs.register(ours)


# --- code that torch.fx writes ---


def builtin_imports() -> dict[str, str]:
    """Returns the statements that import what the code written by torch.fx calls by a name of its own."""
    found = find("torch.fx.graph._custom_builtins")
    return dict(_BUILTIN_IMPORTS) if found is None else {name: one.import_str for name, one in found.items()}


_BUILTIN_IMPORTS = MappingProxyType(
    {
        "inf": "from math import inf",
        "nan": "from math import nan",
        "NoneType": "NoneType = type(None)",
        "torch": "import torch",
        "device": "from torch import device",
        "fx_pytree": "import torch.fx._pytree as fx_pytree",
        "pytree": "import torch.utils._pytree as pytree",
    }
)


# --- functions that see every call ---


def without_torch_function() -> contextlib.AbstractContextManager[None]:
    """Inside, neither modes nor subclasses of Tensor see the calls of torch's functions."""
    return require("torch._C.DisableTorchFunction")()  # type: ignore[no-any-return]


def without_tensor_subclasses() -> contextlib.AbstractContextManager[None]:
    """Inside, subclasses of Tensor do not see the calls of torch's functions."""
    return require("torch._C.DisableTorchFunctionSubclass|torch._C.DisableTorchFunction")()  # type: ignore[no-any-return]


def with_torch_function() -> contextlib.AbstractContextManager[None]:
    """Ends `without_torch_function` for the calls inside."""
    return require("torch._C._EnableTorchFunction")()  # type: ignore[no-any-return]


# --- traces of TorchScript ---


class _NoTracerWarning(Warning):
    """Stands for torch's warning class where torch has none."""


TracerWarning: type[Warning] = find("torch.jit._trace.TracerWarning|torch.jit.TracerWarning") or _NoTracerWarning


@contextlib.contextmanager
def not_tracing() -> Iterator[None]:
    """Inside, calls are not recorded in the trace that is being made."""
    get, set_ = find("torch._C._get_tracing_state"), require("torch._C._set_tracing_state")
    state = None if get is None else get()
    set_(None)
    try:
        yield
    finally:
        set_(state)


@contextlib.contextmanager
def seemingly_tracing() -> Iterator[None]:
    """Lets ``torch._C._get_tracing_state()`` be true, as models expect it which ask whether they are traced."""
    if find("torch._C._get_tracing_state") is None:
        yield
        return
    bindings: Any = torch._C
    original = bindings._get_tracing_state
    bindings._get_tracing_state = lambda: True
    try:
        yield
    finally:
        bindings._get_tracing_state = original


# --- the exporter that is based on TorchScript ---


class UnsupportedOperator(Exception):
    """The exporter has no ONNX form of an operation."""


def export_torchscript(module: nn.Module, inputs: tuple[Any, ...], file: BinaryIO, **setting: Any) -> None:
    """Writes ``module``, run with ``inputs`` in its present training flag, to ``file``.

    Raises:
      TorchVersionError: This torch has no such exporter.
      UnsupportedOperator: An operation has no ONNX form.
    """
    training, error_class = require("torch.onnx.TrainingMode"), require("torch.onnx.errors.UnsupportedOperatorError")
    with warnings.catch_warnings(), _without_onnx_log():
        # The choice of exporter and training mode is ours, not the user's; all other warnings are for the user.
        warnings.filterwarnings("ignore", "It is recommended that constant folding be turned off", UserWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=rf"torch\.|{re.escape(__name__)}$")
        try:
            torch.onnx.export(module, inputs, file, dynamo=False, training=training.PRESERVE, **setting)  # type: ignore[arg-type]
        except error_class as error:
            raise UnsupportedOperator(str(error)) from error


def has_symbolics() -> bool:
    """Whether `register_symbolic` works."""
    return None not in map(find, ("torch.onnx.symbolic_helper.parse_args", "torch.onnx.register_custom_op_symbolic"))


def register_symbolic(operator: str, kinds: str, symbolic: Callable[..., Any], opset: int) -> None:
    """Lets the exporter write ``operator`` by ``symbolic`` from ``opset`` on.

    ``kinds`` has one word for each argument: v for a tensor, i, f, s for a number or string, is for a list of ints.
    """
    parse_args = require("torch.onnx.symbolic_helper.parse_args")
    register = require("torch.onnx.register_custom_op_symbolic")
    register(operator, parse_args(*kinds.split())(symbolic), opset)


def unregister_symbolic(operator: str, opset: int) -> None:
    """Undoes `register_symbolic`."""
    require("torch.onnx.unregister_custom_op_symbolic")(operator, opset)


@contextlib.contextmanager
def _without_onnx_log() -> Iterator[None]:
    """Keeps the exporter from writing its whole graph to the screen when it fails.

    It asks whether that is wanted, but takes the question itself for the answer (torch 2.13, ``setup_onnx_logging``).
    So after any export of the user's own in the same process it is on.
    """
    question, switch = find("torch._C._jit_is_onnx_log_enabled"), find("torch._C._jit_set_onnx_log_enabled")
    if question is None or switch is None:
        yield
        return
    bindings: Any = torch._C
    is_on = question()
    bindings._jit_is_onnx_log_enabled = False
    switch(False)
    try:
        yield
    finally:
        bindings._jit_is_onnx_log_enabled = question
        switch(is_on)
