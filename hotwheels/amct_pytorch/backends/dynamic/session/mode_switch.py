"""ModeSwitch: the mode that ``enable_quantization`` has set for a model of the dynamic path, instead of its session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ....nn.mode import Mode, forcing
from ...real_quant.real_gradient import with_gradient_of
from ...real_quant.real_quant_mode import run_real_quant
from ..forwards import OriginalForward, replacement_of

UNCOUNTED = (
    "Forwards in a mode that enable_quantization has set do not count until enable_quantization(model,"
    " calibration=True)."
)


class ModeSwitch:
    """Holds a mode for a quantized model; while a mode is set, the session neither counts forwards nor sets modes."""

    def __init__(self) -> None:
        self._mode: Mode | None = None

    @property
    def mode(self) -> Mode | None:
        """The mode of all layers; None if the session decides."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        """Sets the mode; a mode that observes leaves the decision to the session."""
        self._mode = None if mode.observes else mode

    @contextlib.contextmanager
    def set_to(self, mode: Mode) -> Iterator[None]:
        """Returns a context in which all layers have ``mode``."""
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    def run(self, forward: OriginalForward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns ``forward(*args, **kwargs)`` with all layers in the mode that is set; restores their own modes."""
        assert self._mode is not None
        if self._mode is not Mode.REAL_QUANT:
            with forcing(self._mode):
                return forward(*args, **kwargs)
        with forcing(Mode.REAL_QUANT), torch.no_grad():
            real = run_real_quant(forward.module, forward, args, kwargs)
        if not torch.is_grad_enabled():
            return real
        with forcing(Mode.FAKE_QUANT):
            return with_gradient_of(real, forward(*args, **kwargs))


def switches_inside(model: nn.Module) -> list[ModeSwitch]:
    """Returns the switches of all quantized models of the dynamic path in ``model``, itself included."""
    switches = (getattr(replacement_of(module), "switch", None) for module in model.modules())
    return [switch for switch in switches if isinstance(switch, ModeSwitch)]
