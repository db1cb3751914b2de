"""Replacements of a module's forward, set on the instance, so that modules keep their names and types.

All are small classes, not closures, so that ``copy.deepcopy`` and ``pickle`` of a model copy them correctly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...graph import Edge
from ...nn.call import LayerCall
from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...ops.desc import OpDesc
from ...torch_private import without_torch_function
from ..real_quant.real_quant_mode import call_layer, run_in_double
from ..torchscript.unexportable_pooling import refuse_unbatched_pooling, refuse_uneven_windows
from .maker import made_by, maker_of
from .read.operands import float_edges

FORWARD = "forward"


def replacement_of(module: nn.Module) -> Any:
    """Returns the Replacement that is the forward of ``module``, also inside of wrappers with ``__wrapped__``; or None.

    accelerate sets such wrappers on the instance.
    """
    forward = module.__dict__.get(FORWARD)
    if forward is not None and not isinstance(forward, Replacement):
        forward = inspect.unwrap(forward, stop=lambda one: isinstance(one, Replacement))
    return forward if isinstance(forward, Replacement) else None


class OriginalForward:
    """The forward of a module before it is replaced: the forward set on the instance, else that of its class."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._own = module.__dict__.get(FORWARD)

    @property
    def is_own(self) -> bool:
        """Whether the forward was set on the instance."""
        return self._own is not None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        if self._own is not None:
            return self._own(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def in_double(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward in float64, as real_quant does for operations that are not CUBE operations (spec 10.4)."""
        return run_in_double(self, args, kwargs)

    def restore(self) -> None:
        """Makes the original forward the module's forward again."""
        if self._own is None:
            self.module.__dict__.pop(FORWARD, None)
        else:
            self.module.__dict__[FORWARD] = self._own


class OutOfPlaceCall(OriginalForward):
    """Runs the original forward of a module that works in place on a copy of its first argument."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward; the argument is not changed."""
        args, kwargs = _with_copy(args, kwargs)
        return super().__call__(*args, **kwargs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarkedCall:
    """One call of a module, as the export sees it.

    Attributes:
      edges: The quantizable inputs, without producers, in the order of the markers' indices.
      maker: Path of the module whose unchanged result is the first argument; None if no marked module made it.
    """

    edges: tuple[Edge, ...]
    maker: str | None


class Marks(Protocol):
    """Marks the places of layers in an export: the module ``torchscript.markers``, or a `ModuleWriter`."""

    def mark_input(self, x: Tensor, layer: str, index: int) -> Tensor:
        """Returns ``x``, marked as quantizable input ``index`` of ``layer``."""

    def mark_result(self, result: Any, layer: str) -> Any:
        """Returns ``result`` with its first tensor marked as output of ``layer``."""

    def body(self, op: OpDesc) -> contextlib.AbstractContextManager[None]:
        """Returns a context for the call of a layer's module."""


class MarkedForward:
    """Runs the module between markers, and records which arguments are float tensors.

    Attributes:
      calls: One entry for each call.
    """

    def __init__(self, name: str, op: OpDesc, original: OriginalForward, marks: Marks) -> None:
        self._marks = marks
        self._name = name
        self._op = op
        self.original = original
        self.calls: list[MarkedCall] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module once, between markers of a name for this call."""
        layer = call_name(self._name, len(self.calls))
        refuse_unbatched_pooling(layer, self._op, args[0] if args else None)
        edges = float_edges(self.original.module, self._op, args, kwargs)
        first = _first(args, kwargs)
        self.calls.append(MarkedCall(edges=edges, maker=maker_of(first)))
        call = LayerCall(self.original, edges)
        marked = [self._marks.mark_input(x, layer, index) for index, x in enumerate(call.inputs(args, kwargs))]
        args, kwargs = call.substitute(args, kwargs, marked)
        with self._marks.body(self._op):
            if works_in_place(self.original.module):
                args, kwargs = _with_copy(args, kwargs)
            result = self.original(*args, **kwargs)
        if self._op.name.startswith("adaptive") or getattr(self.original.module, "mode", None) == "area":
            refuse_uneven_windows(layer, self._op, first, result)
        result = self._marks.mark_result(result, layer) if edges else result
        if works_in_place(self.original.module):  # the module would change the marker's result, not its argument
            result = first.copy_(result)
        return made_by(self._name, result)


class Replacement:
    """A forward of a quantized model that replaces the float model's.

    Attributes:
      original: The forward that is replaced.
    """

    def __init__(self, original: OriginalForward) -> None:
        self.original = original


class LayerForward(Replacement):
    """Runs the QuantizedLayer of the module, which in turn calls the module's original forward.

    A call on the unchanged result of one of the modules ``owners`` is no use of this layer: it belongs to that module,
    which computes it on the chip, so it stays in float. If the module works in place and its input is read again, the
    layer's result is written into the input.
    """

    def __init__(self, layer: QuantizedLayer, original: OriginalForward, owners: Collection[str] = frozenset()) -> None:
        super().__init__(original)
        self.layer = layer
        self._owners = frozenset(owners)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the layer in its mode."""
        self.layer.use = call_name(self.layer.name, self.layer.calls)
        self.layer.calls += 1
        first = _first(args, kwargs)
        if self._owners and maker_of(first) in self._owners:
            return self.original(*args, **kwargs)
        if not works_in_place(self.original.module):
            return self._run(args, kwargs)
        if torch.is_grad_enabled() and self.layer.mode not in (Mode.FLOAT, Mode.CALIBRATION):
            args, kwargs = _with_copy(args, kwargs)  # the quantizer's backward needs what it was given
        result = self._run(args, kwargs)
        with without_torch_function():
            return first.copy_(result)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.layer.mode is Mode.REAL_QUANT:
            return call_layer(self.layer, args, kwargs)
        return self.layer(*args, **kwargs)


class MakingForward(Replacement):
    """Notes on the module's result by which module it was made; see `maker`."""

    def __init__(self, path: str, original: OriginalForward, forward: Callable[..., Any]) -> None:
        """``forward`` is the present replacement of ``original``, or ``original`` itself."""
        super().__init__(original)
        self._path = path
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module as before."""
        return made_by(self._path, self._forward(*args, **kwargs))


class FoldedForward(Replacement):
    """The forward of a BatchNorm that is folded into the convolution in front of it."""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``x``."""
        return x


def works_in_place(module: nn.Module) -> bool:
    """Whether ``module`` changes its first argument, as ReLU(inplace=True) does."""
    return bool(getattr(module, "inplace", False))


def call_name(path: str, number: int) -> str:
    """Returns the layer name of call ``number`` of the module at ``path``: the path for the first call."""
    return f"{path}:{number}" if number else path


@contextlib.contextmanager
def original_forwards(model: nn.Module) -> Iterator[None]:
    """Returns a context in which the modules of a quantized ``model`` have their original forwards."""
    pairs = ((module, replacement_of(module)) for module in model.modules())
    replaced = [(module, module.__dict__[FORWARD], one) for module, one in pairs if one is not None]
    for _, _, replacement in replaced:
        replacement.original.restore()
    try:
        yield
    finally:
        for module, present, _ in replaced:
            replace_forward(module, present)


def replace_forward(module: nn.Module, forward: Any) -> None:
    """Sets ``forward`` in the instance's ``__dict__``, since some modules forbid or intercept assignments."""
    module.__dict__[FORWARD] = forward


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns the first argument of a call; None if there is none."""
    return next(iter((*args, *kwargs.values())), None)


def _with_copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a call with a copy of the first argument, a tensor."""
    if args:
        return (args[0].clone(), *args[1:]), kwargs
    name, x = next(iter(kwargs.items()))
    return args, {**kwargs, name: x.clone()}
