"""QuantGraphModule: the quantized model the user holds; a GraphModule that knows its mode and the next dump."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ...errors import UnsupportedModelError
from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from .interpreters import RealQuantInterpreter, RecordingInterpreter, Watcher

LAYERS = "amct_layers"  # the sub-module which holds the QuantizedLayers by layer name
NO_DATA_PARALLEL = (
    "quantized models cannot run in DataParallel: its replicas throw away what quantizers learn in a forward. Use"
    " DistributedDataParallel, one process per device."
)


class QuantGraphModule(fx.GraphModule):
    """A traced model with QuantizedLayers, under ``amct_layers``, in place of the operations that are quantized.

    Float, calibration and fake_quant run the generated code. real_quant interprets the graph node by node, since SPEC
    10.4 asks for float64 between the layers; so does the one forward after ``watch_next_forward``.
    """

    def recompile(self) -> Any:
        """Puts the choice of the way to run in front of the generated ``forward``, whose signature it keeps."""
        code = super().recompile()
        cls = type(self)
        generated = cls.forward

        @functools.wraps(generated)
        def forward(self: QuantGraphModule, *args: Any, **kwargs: Any) -> Any:
            return self._run(generated, args, kwargs)

        cls.forward = forward
        return code

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantGraphModule:
        """Copies the graph and all of the state, also what the graph does not call."""
        copied = super().__deepcopy__(memo)
        adopt_state(copied, self, memo)
        copied.__dict__["_freezes_batch_norm"] = self.freezes_batch_norm
        return copied

    @property
    def quantized_layers(self) -> dict[str, QuantizedLayer]:
        """The layers by name, in graph order."""
        return dict(getattr(self, LAYERS).named_children())

    @property
    def mode(self) -> Mode:
        """The mode of all layers."""
        return next(iter(self.quantized_layers.values())).mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        for layer in self.quantized_layers.values():
            layer.mode = mode

    @property
    def freezes_batch_norm(self) -> bool:
        """Whether the BatchNorms keep their running statistics in training mode."""
        return bool(self.__dict__.get("_freezes_batch_norm", False))

    def freeze_batch_norm(self, freeze: bool) -> None:
        """Keeps the BatchNorms in eval mode, or lets them follow the mode of the model again."""
        self.__dict__["_freezes_batch_norm"] = freeze
        self._set_batch_norms(self.training and not freeze)

    def train(self, mode: bool = True) -> QuantGraphModule:
        """Sets the training mode, except for BatchNorms that are frozen."""
        super().train(mode)
        if self.freezes_batch_norm:
            self._set_batch_norms(False)
        return self

    def _set_batch_norms(self, mode: bool) -> None:
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)

    def _replicate_for_data_parallel(self) -> QuantGraphModule:
        """DataParallel asks for one of these per device."""
        raise UnsupportedModelError(f"{type(self).__name__}: {NO_DATA_PARALLEL}")

    def watch_next_forward(self, watcher: Watcher) -> None:
        """Calls ``watcher`` with the result of every node of the next forward, once."""
        self.__dict__["_watcher"] = watcher

    def _run(self, generated: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watcher: Watcher | None = self.__dict__.pop("_watcher", None)
        if self.mode is Mode.REAL_QUANT:
            return self._run_real_quant(generated, watcher, args, kwargs)
        if watcher is not None:
            with self.keeping_inputs():
                return RecordingInterpreter(self, watcher).run(*_positional(self, args, kwargs))
        return generated(self, *args, **kwargs)

    def _run_real_quant(
        self, generated: Callable[..., Any], watcher: Watcher | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with torch.no_grad():
            real = RealQuantInterpreter(self, watcher).run(*_positional(self, args, kwargs))
        if not torch.is_grad_enabled():
            return real
        with self._as(Mode.FAKE_QUANT):
            fake = generated(self, *args, **kwargs)
        return _with_gradient_of(real, fake)

    @contextlib.contextmanager
    def keeping_inputs(self) -> Iterator[None]:
        """Keeps layers from overwriting their inputs, for those who look at the results of nodes."""
        layers = self.quantized_layers.values()
        for layer in layers:
            layer.keeps_inputs = True
        try:
            yield
        finally:
            for layer in layers:
                layer.keeps_inputs = False

    @contextlib.contextmanager
    def _as(self, mode: Mode) -> Iterator[None]:
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before


def adopt_state(target: nn.Module, source: nn.Module, memo: dict[int, Any] | None = None) -> None:
    """Registers in ``target`` the children, parameters and buffers of ``source`` that a GraphModule leaves behind.

    A GraphModule takes over only what its graph calls: not the modules inside QuantizedLayers, and not unused heads.
    With a ``memo`` they are the copies which ``copy.deepcopy`` has made of them.
    """
    for kind in ("_modules", "_parameters", "_buffers"):
        for name, value in getattr(source, kind).items():
            getattr(target, kind)[name] = value if memo is None else copy.deepcopy(value, memo)
    target._non_persistent_buffers_set |= source._non_persistent_buffers_set


def _positional(module: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments in placeholder order, as an interpreter wants them; absent ones keep their default."""
    names = [node.target for node in module.graph.nodes if node.op == "placeholder"]
    values = dict(zip(names, args, strict=False)) | kwargs
    given = []
    for name in names:
        if name not in values:
            break
        given.append(values[name])
    return tuple(given)


def _with_gradient_of(real: Any, fake: Any) -> Any:
    """Returns the values of ``real`` with the gradients of ``fake`` (SPEC 2.1)."""
    return pytree.tree_map(_straight_through, real, fake)


def _straight_through(real: Any, fake: Any) -> Any:
    if not (isinstance(fake, Tensor) and fake.requires_grad):
        return real
    return _ValueOf.apply(fake, real)


class _ValueOf(torch.autograd.Function):
    """Identity gradient, another value: ``fake + (real - fake)`` would round."""

    @staticmethod
    def forward(ctx: Any, fake: Tensor, real: Tensor) -> Tensor:
        return real.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None
