"""The uses of private names of torch for TorchScript: traces, and the exporter that is based on them."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from .torch_names import find, require

# --- traces of TorchScript ---


class _NoTracerWarning(Warning):
    """Replaces torch's warning class if torch has none."""


TracerWarning: type[Warning] = find("torch.jit._trace.TracerWarning|torch.jit.TracerWarning") or _NoTracerWarning


def is_tracing() -> bool:
    """Whether a TorchScript trace is being recorded, as in torch's exporter."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


@contextlib.contextmanager
def not_tracing() -> Iterator[None]:
    """Returns a context in which calls are not recorded in the present trace."""
    get, set_ = require("torch._C._get_tracing_state"), require("torch._C._set_tracing_state")
    state = get()
    set_(None)
    try:
        yield
    finally:
        set_(state)


def traced_value(tensor: Tensor) -> Any | None:
    """Returns the graph value of ``tensor`` in the present trace; None if torch does not report it."""
    value = find("torch._C._get_value_trace")
    return None if value is None else value(tensor)


def trace_as(tensor: Tensor, other: Tensor) -> None:
    """Makes the present trace record ``other`` wherever ``tensor`` is used from now on."""
    require("torch._C._set_value_trace")(tensor, require("torch._C._get_value_trace")(other))


@contextlib.contextmanager
def seemingly_tracing(is_seeming: bool = True) -> Iterator[None]:
    """Makes ``torch._C._get_tracing_state()`` true, for models that check it; or what it is, for torch, which does too.

    If torch has no such function, no model can check, and nothing is done.
    """
    bindings: Any = torch._C
    original, present = find("torch._C._get_tracing_state"), getattr(bindings, "_get_tracing_state", None)
    if original is not None:
        bindings._get_tracing_state = (lambda: True) if is_seeming else original
    try:
        yield
    finally:
        if present is not None:
            bindings._get_tracing_state = present


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
        # This package, not the user, chose exporter and training mode, so only warnings about these are hidden.
        warnings.filterwarnings("ignore", "It is recommended that constant folding be turned off", UserWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=rf"torch\.|{re.escape(__name__)}$")
        try:
            torch.onnx.export(module, inputs, file, dynamo=False, training=training.PRESERVE, **setting)  # type: ignore[arg-type]
        except error_class as error:
            raise UnsupportedOperator(str(error)) from error


def symbolic_rank(value: Any) -> int | None:
    """Returns the number of dimensions of a value in the exporter's graph; None if the exporter does not know it."""
    return require("torch.onnx.symbolic_helper._get_tensor_rank")(value)  # type: ignore[no-any-return]


def is_symbolic_none(value: Any) -> bool:
    """Whether an argument of a symbolic is None."""
    return bool(require("torch.onnx.symbolic_helper._is_none")(value))


def symbolic_float(value: Any) -> float:
    """Returns the number in an argument of a symbolic that is a constant."""
    return float(require("torch.onnx.symbolic_helper._parse_arg")(value, "f"))


def symbolic_ints(value: Any) -> list[int]:
    """Returns the numbers in an argument of a symbolic that is a constant int or a list of constant ints."""
    parse = require("torch.onnx.symbolic_helper._parse_arg")
    if value.node().kind() == "prim::ListConstruct":
        return list(parse(value, "is"))
    return [int(one) for one in parse(value, "t").reshape(-1)]


def write_floor_division(graph: Any, x: Any, y: Any) -> Any:
    """Adds ``x // y`` to the exporter's graph, for numbers of any type and sign; returns the result's value."""
    name = "torch.onnx._internal.torchscript_exporter.symbolic_opset9._floor_divide"
    return require(name)(graph, x, y)


def has_symbolics() -> bool:
    """Whether torch has the functions that `register_symbolic` needs."""
    return None not in map(find, ("torch.onnx.symbolic_helper.parse_args", "torch.onnx.register_custom_op_symbolic"))


def register_symbolic(operator: str, kinds: str, symbolic: Callable[..., Any], opset: int) -> None:
    """Makes the exporter write ``operator`` with the function ``symbolic`` from ``opset`` on.

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

    The exporter means to check whether that log is on, but tests the function itself, which is always true (torch 2.13,
    ``setup_onnx_logging``). So after any export by the user in the same process the log is on.
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
