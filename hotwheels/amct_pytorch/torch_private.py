"""The uses of private and deprecated names of torch; only `torch_torchscript` uses others (see `torch_names`)."""

from __future__ import annotations

import contextlib
import functools
import keyword
import sys
import threading
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from . import trees
from .torch_names import find, require

_Function = TypeVar("_Function", bound=Callable[..., Any])

# --- nested arguments ---

if TYPE_CHECKING:
    from torch.utils import _pytree

    pytree = _pytree
else:
    pytree = find("torch.utils._pytree") or trees


# --- generated code ---

_keywords_lock = threading.Lock()
_keywords_users = 0  # contexts that are open, in all threads
_path_of_torch: Any = None


@contextlib.contextmanager
def keywords_in_paths() -> Iterator[None]:
    """Returns a context in which the code that torch.fx generates may have keywords of Python in paths of modules."""
    global _keywords_users, _path_of_torch
    if find("torch.fx.graph._format_target") is None:
        yield
        return
    with _keywords_lock:
        if not _keywords_users:
            _path_of_torch, torch.fx.graph._format_target = torch.fx.graph._format_target, _path_in_code
        _keywords_users += 1
    try:
        yield
    finally:
        with _keywords_lock:
            _keywords_users -= 1
            if not _keywords_users:
                torch.fx.graph._format_target = _path_of_torch


def _path_in_code(base: str, target: str) -> str:
    """Returns the code for the attribute at the path ``target`` of ``base``."""
    for name in target.split("."):
        is_plain = name.isidentifier() and not keyword.iskeyword(name)
        base = f"{base}.{name}" if is_plain else f"getattr({base}, {name!r})"
    return base


# --- products of bytes ---


def has_int8_products() -> bool:
    """Whether torch has the three functions below; whether they are exact on this processor, is another question."""
    kernels = find("torch.ops.onednn")
    names = ("qconv_prepack", "qconv2d_pointwise")
    return find("torch._int_mm") is not None and all(hasattr(kernels, name) for name in names)


def pack_int8_convolution(
    weight: Tensor, zero: int, stride: list[int], padding: list[int], dilation: list[int], groups: int, shape: list[int]
) -> Tensor:
    """Returns the int8 ``weight`` in the order of a kernel for data of ``shape`` with the zero point ``zero``."""
    scale = torch.ones(1)
    packed: Tensor = find("torch.ops.onednn").qconv_prepack(
        weight, scale, 1.0, zero, stride, padding, dilation, groups, shape
    )
    return packed


def int8_convolution(
    x: Tensor, zero: int, packed: Tensor, bias: Tensor | None,
    stride: list[int], padding: list[int], dilation: list[int], groups: int,
) -> Tensor:  # fmt: skip
    """Returns the float32 convolution of ``x - zero``, uint8 in the order channels last, with a packed weight."""
    scale, zeros = _unit_scale()
    settings: tuple[Any, ...] = (stride, padding, dilation, groups, 1.0, 0, torch.float32, "none", [], "")
    found: Tensor = find("torch.ops.onednn").qconv2d_pointwise(x, 1.0, zero, packed, scale, zeros, bias, *settings)
    return found


@functools.cache
def _unit_scale() -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return torch.ones(1), torch.zeros(1, dtype=torch.int32)


def int8_matrix_product(left: Tensor, right: Tensor) -> Tensor:
    """Returns the int32 product of two int8 matrices."""
    found: Tensor = find("torch._int_mm")(left, right)
    return found


# --- tensors and autograd ---


def version_of(tensor: Tensor) -> int:
    """Returns how often ``tensor`` was changed in place."""
    require("torch.Tensor._version")
    return tensor._version


def known_version(tensor: Tensor) -> int | None:
    """Returns how often ``tensor`` was changed in place; None for an inference tensor, which does not count that."""
    return None if tensor.is_inference() else version_of(tensor)


def reference_counts(tensor: Tensor) -> tuple[int, int, int] | None:
    """Returns the reference counts of ``tensor``, its memory and its Python object; None if torch has no counts.

    The last number includes the references of the caller and of this function.
    """
    count_storage, count_tensor = find("torch._C._storage_Use_Count"), find("torch.Tensor._use_count")
    address = getattr(tensor.untyped_storage(), "_cdata", None)
    if None in (count_storage, count_tensor, address):
        return None
    return count_tensor(tensor), count_storage(address), sys.getrefcount(tensor)


def was_made_by(tensor: Tensor, *functions: type[torch.autograd.Function]) -> bool:
    """Whether ``tensor`` is the result of one of these autograd functions; False if torch does not record it."""
    return is_node_of(tensor.grad_fn, *functions)


def is_node_of(node: object, *functions: type[torch.autograd.Function]) -> bool:
    """Whether one of these autograd functions made ``node`` of the autograd graph; False if torch does not tell."""
    if find("torch.autograd.Function._backward_cls") is None:
        return False
    return isinstance(node, tuple(function._backward_cls for function in functions))


_FORBIDDEN_HOOKS = object()


def saved_tensors_hooks() -> object | None:
    """Returns the active hooks on saved tensors; None if there are none.

    If torch cannot list its hooks, returns an object that equals nothing: there may be hooks, and they may change.
    Inside ``disable_saved_tensors_hooks`` always returns the same object.
    """
    hooks = find("torch._C._autograd._top_saved_tensors_default_hooks")
    is_enabled = find("torch._C._autograd._saved_tensors_hooks_is_enabled")
    if is_enabled is not None and not is_enabled():
        return _FORBIDDEN_HOOKS
    return object() if hooks is None else hooks(True)


def is_in_backward() -> bool:
    """Whether a backward runs in this thread; False if torch cannot tell."""
    task = find("torch._C._current_graph_task_id")
    return task is not None and task() != -1


# --- compilers and transforms ---


def transforms_are_active() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp) runs; False if torch cannot tell."""
    active = find("torch._C._are_functorch_transforms_active")
    return active is not None and bool(active())


def uncompiled(function: _Function) -> _Function:
    """Returns ``function`` such that torch.compile runs it and all that it calls eagerly.

    torch.compiler.disable would import the compiler at once, which takes seconds.
    """
    disable: Callable[[_Function], _Function] = find("torch._disable_dynamo") or torch.compiler.disable
    return disable(function)


# --- several processes ---


def default_store() -> Any:
    """Returns the store in which the processes of the default process group leave values; None if torch has none."""
    return (find("torch.distributed.distributed_c10d._get_default_store") or (lambda: None))()


def joins_uneven_inputs() -> bool:
    """Whether a forward of DistributedDataParallel runs inside its ``join``; False if torch does not tell."""
    active = find("torch.nn.parallel.DistributedDataParallel._get_active_ddp_module")
    return active is not None and bool(getattr(getattr(active(), "_join_config", None), "enable", False))


# --- modules ---


def is_sharded(module: nn.Module) -> bool:
    """Whether FullyShardedDataParallel or ``fully_shard`` has sharded ``module``; found without importing them."""
    return "_is_fsdp_managed_module" in vars(module)


#
# The registries of nn.Module (_parameters, _buffers, _modules and the hooks) are in every pickled module, so torch will
# keep them.


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether ``module`` has forward hooks, which see its result."""
    return bool(module._forward_hooks)


def has_global_forward_hooks() -> bool:
    """Whether there are global forward hooks, which see the result of every module; True if torch cannot tell."""
    hooks = find("torch.nn.modules.module._global_forward_hooks")
    return hooks is None or bool(hooks)


# For isinstance: a BatchNorm of any number of dimensions, a SyncBatchNorm, or a class derived from one.
if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm

    BatchNorm = _BatchNorm
else:
    _BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    BatchNorm = find("torch.nn.modules.batchnorm._BatchNorm") or _BATCH_NORMS


# For isinstance: a Dropout of any number of dimensions.
if TYPE_CHECKING:
    from torch.nn.modules.dropout import _DropoutNd

    Dropout = _DropoutNd
else:
    _DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    Dropout = find("torch.nn.modules.dropout._DropoutNd") or _DROPOUTS

# The original nn.Module.__call__, which torch.fx replaces while it traces.
call_module = nn.Module.__call__


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Returns the names of the buffers of ``module`` itself that its state_dict does not hold; may be changed."""
    return module._non_persistent_buffers_set


def register_base_classes(fake_quantize: type[nn.Module], observer: type[nn.Module]) -> None:
    """Makes the two classes virtual subclasses of torch's, for ``isinstance``; no effect if torch has none."""
    pairs = (("FakeQuantizeBase", fake_quantize), ("ObserverBase", observer))
    for name, ours in pairs:
        theirs = find(f"torch.ao.quantization.{name}")
        if hasattr(theirs, "register"):  # only abstract base classes have it
            theirs.register(ours)


# --- code that torch.fx writes ---


def builtin_imports() -> dict[str, str]:
    """Returns the import statements for the names that code generated by torch.fx uses without importing them."""
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
    """Returns a context in which neither modes nor Tensor subclasses intercept calls of torch functions."""
    return require("torch._C.DisableTorchFunction")()  # type: ignore[no-any-return]


def without_tensor_subclasses() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which Tensor subclasses do not intercept calls of torch functions."""
    return require("torch._C.DisableTorchFunctionSubclass|torch._C.DisableTorchFunction")()  # type: ignore[no-any-return]


def with_torch_function() -> contextlib.AbstractContextManager[None]:
    """Returns a context that suspends `without_torch_function`."""
    return require("torch._C._EnableTorchFunction")()  # type: ignore[no-any-return]


@contextlib.contextmanager
def without_function_modes() -> Iterator[None]:
    """Returns a context in which no TorchFunctionMode intercepts calls of torch functions."""
    pop, push = require("torch.overrides._pop_mode"), require("torch.overrides._push_mode")
    modes = [pop() for _ in range(require("torch._C._len_torch_function_stack")())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            push(mode)


if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

    DispatchMode = TorchDispatchMode
else:

    class _NoDispatchMode:
        """Replaces torch's class, from which a class of this package derives, if torch has none."""

        def __init__(self) -> None:
            require("torch.utils._python_dispatch.TorchDispatchMode")

    DispatchMode = find("torch.utils._python_dispatch.TorchDispatchMode") or _NoDispatchMode


# --- tensors without data ---

_FAKES = "torch._subclasses.fake_tensor"

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensor as TorchFakeTensor

    FakeTensor = TorchFakeTensor
else:

    class _NoFakeTensor(Tensor):
        """Replaces torch's class in ``isinstance`` if torch has none."""

    FakeTensor = find(f"{_FAKES}.FakeTensor") or _NoFakeTensor


def fake_tensor_mode(**settings: Any) -> Any:
    """Returns a mode in which operations compute shapes, types and devices, but no data."""
    require(f"{_FAKES}.FakeTensor")
    return require(f"{_FAKES}.FakeTensorMode")(allow_non_fake_inputs=True, **settings)


def data_errors() -> tuple[type[Exception], ...]:
    """Returns the errors of operations on tensors without data which need the data."""
    names = ("DataDependentOutputException", "DynamicOutputShapeException", "UnsupportedOperatorException")
    return tuple(require(f"{_FAKES}.{name}") for name in names)


def python_dispatcher() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which kernels that would need the value of a symbolic size run as Python formulas."""
    return require("torch._dispatch.python.enable_python_dispatcher")()  # type: ignore[no-any-return]


def constant_source(name: str) -> Any:
    """Returns the source object that torch requires for a symbolic size."""
    return require("torch._dynamo.source.ConstantSource")(name)


# --- functions of torch by name ---


def as_script_method(function: Any) -> Any | None:
    """Returns ``function`` (it has a ``name`` and an ``owner``) if it is a bound method of a torch.jit module."""
    method = find("torch._C.ScriptMethod")
    return function if method is not None and isinstance(function, method) else None


def is_kernel(name: str, function: Any) -> bool:
    """Whether ``function`` is the kernel called ``name`` behind torch.nn.functional."""
    return function is not None and getattr(find("torch._C._nn"), name, None) is function
