"""The private and deprecated names of torch which the package uses, and how each is looked up.

A release of torch may drop or move any of them. A name is looked up when it is needed, at all places where torch has
or had it. Where torch lacks a name there is a fallback of our own (`torch_private`, `torch_torchscript`), or else
`TorchVersionError`, which says what cannot be done and which versions can.
"""

from __future__ import annotations

import functools
import importlib
from types import MappingProxyType
from typing import Any

import torch

from .errors import TorchVersionError
from .version import TESTED_TORCH

# The name, and the feature that is lost without it. Other places of the same object follow after a bar.
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
        "torch._C._autograd._saved_tensors_hooks_is_enabled": "training inside disable_saved_tensors_hooks",
        "torch._C._are_functorch_transforms_active": "an error that says that torch.func cannot transform a model",
        "torch._disable_dynamo": "the time of an import: it takes seconds longer",
        "torch._C._current_graph_task_id": "checkpointing in forwards that calibrate: a repeated forward counts again",
        "torch.nn.parallel.DistributedDataParallel._get_active_ddp_module": "uneven inputs under DDP.join, with ULQ",
        "torch.distributed.distributed_c10d._get_default_store": "an error that says which processes do not calibrate,"
        " before the transport gives up waiting for them",
        "torch.jit._trace.TracerWarning|torch.jit.TracerWarning": "torch's warnings about traces told from others",
        "torch._C._jit_is_onnx_log_enabled": "a silent failure of torch's ONNX exporter",
        "torch._C._jit_set_onnx_log_enabled": "a silent failure of torch's ONNX exporter",
        "torch._assert": "pictures of the graph without the model's own assertions",
        "torch.fx.graph._format_target": "modules that are called like a keyword of Python",
        "torch.fx.graph._custom_builtins": "nothing but names that newer code of torch.fx may use",
        "torch._C._get_value_trace": "warnings about values of tensors that the exporter writes as constants",
        "torch._C.ScriptMethod": "methods of torch.jit inside a model that is traced with input_data",
        "torch._C._nn": "names of functions behind torch.nn.functional: torch's exporter writes them, not our writer",
        "torch.nn.modules.dropout._DropoutNd": "Dropout classes that derive from none of torch.nn's public ones",
        "torch.ao.quantization.FakeQuantizeBase": "our quantizers as instances of torch's base class",
        "torch.ao.quantization.ObserverBase": "our observers as instances of torch's base class",
        "torch.ops.onednn": "the time of real_quant: products of bytes run in float32",
        "torch._int_mm": "the time of real_quant: products of bytes run in float32",
        # Errors where they are used:
        "torch.Tensor._version": "quantized models in the modes calibration and fake_quant",
        "torch._C.DisableTorchFunctionSubclass|torch._C.DisableTorchFunction": "real_quant",
        "torch._C.DisableTorchFunction": "real_quant and export on the dynamic path",
        "torch._C._EnableTorchFunction": "real_quant of functions that torch.fx does not look into",
        "torch._C._set_value_trace": "files of models on the dynamic path that change views in place",
        "torch._C._get_tracing_state": "ONNX files written by torch's TorchScript-based exporter",
        "torch._C._set_tracing_state": "ONNX files written by torch's TorchScript-based exporter",
        "torch.overrides._pop_mode": "layers inside a user's forward, on the dynamic path",
        "torch.overrides._push_mode": "layers inside a user's forward, on the dynamic path",
        "torch._C._len_torch_function_stack": "layers inside a user's forward, on the dynamic path",
        "torch._subclasses.fake_tensor.FakeTensor": "traces with input_data",
        "torch._subclasses.fake_tensor.FakeTensorMode": "traces with input_data, and files with dynamic_axes",
        "torch._subclasses.fake_tensor.DataDependentOutputException": "traces with input_data",
        "torch._subclasses.fake_tensor.DynamicOutputShapeException": "traces with input_data",
        "torch._subclasses.fake_tensor.UnsupportedOperatorException": "traces with input_data",
        "torch._dispatch.python.enable_python_dispatcher": "files with dynamic_axes on the FX path",
        "torch._dynamo.source.ConstantSource": "files with dynamic_axes on the FX path",
        "torch.utils._python_dispatch.TorchDispatchMode": "the share of multiplications that run on integers",
        "torch.onnx._internal.torchscript_exporter.symbolic_opset9._floor_divide": "ONNX files written by torch's"
        " TorchScript-based exporter",
        "torch.onnx.symbolic_helper._get_tensor_rank": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.symbolic_helper._is_none": "ONNX files written by torch's TorchScript-based exporter",
        "torch.onnx.symbolic_helper._parse_arg": "ONNX files written by torch's TorchScript-based exporter",
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
