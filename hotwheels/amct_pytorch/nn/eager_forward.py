"""Forwards of quantized models run eagerly: compilers leave them alone; tracers and torch.func transforms are refused.

Observers and quantizers change state, and kernels of this package read memory directly. A trace would take the results
for constants; a transform would run on wrong tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..errors import UnsupportedModelError
from ..torch_private import transforms_are_active, uncompiled
from ..torch_torchscript import is_tracing

NO_TRACES = (
    "A quantized model cannot be traced, scripted or exported by torch (torch.jit.trace, torch.jit.script,"
    " torch.export, torch.onnx.export): its quantizers would become constants. To write ONNX, call save_quant_model_fx,"
    " save_model or save_quant_retrain_model: <save_path>_fake_quant_model.onnx runs in onnxruntime. To load the model"
    " in another process, use torch.save(model) or its state_dict."
)
_Result = TypeVar("_Result")


def eagerly(forward: Callable[..., _Result], *args: Any) -> _Result:
    """Returns ``forward(*args)``, the forward of a whole quantized model; torch.compile does not look into it.

    Raises:
      UnsupportedModelError: torch.jit.trace, torch.export, torch.onnx.export or a transform of torch.func calls it.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _call(forward, args)
    refuse_tracers()
    _refuse_transforms()
    return forward(*args)


def refuse_tracers() -> None:
    """Raises UnsupportedModelError if torch.jit.trace or torch.export records this forward."""
    if is_tracing() or torch.compiler.is_exporting():
        raise UnsupportedModelError(NO_TRACES)


@uncompiled
def _call(forward: Callable[..., _Result], args: tuple[Any, ...]) -> _Result:
    _refuse_transforms()
    return forward(*args)


def _refuse_transforms() -> None:
    if transforms_are_active():
        msg = (
            "A quantized model cannot run inside a transform of torch.func (grad, vmap, jvp, jacrev, ...): its"
            " quantizers change state, which transforms forbid. Use loss.backward() or torch.autograd.grad;"
            " torch.func.functional_call alone works."
        )
        raise UnsupportedModelError(msg)
