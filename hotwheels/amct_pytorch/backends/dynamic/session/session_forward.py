"""SessionForward: runs a session's begin and end around the forward of a quantized model; finds the session again."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any, Protocol, TypeVar

from torch import nn

from ....errors import ConfigError
from ....nn.eager_forward import eagerly
from ....nn.quantized_layer import QuantizedLayer
from ....quantizers.learning.recompute import is_recomputing
from ....quantizers.rollback import all_or_nothing
from ...batches.input_forms import InputForm, forms_of, noting_inputs
from ...layers.calibration_forward import any_forward, calibration_forward
from ...layers.layer_container import LayerContainer, follow_flag
from ...user_model.float_model import in_float32, refuse_arrays
from ...user_model.standing_modules import follow_modules
from ..forwards import OriginalForward, Replacement, replace_forward, replacement_of
from .mode_switch import ModeSwitch


class Session(Protocol):
    """Counts the forwards of a quantized model, sets the modes of its layers and writes its record."""

    @property
    def container(self) -> LayerContainer:
        """The quantized layers of the model."""

    @property
    def layers(self) -> Mapping[str, QuantizedLayer]:
        """The quantized layers by name."""

    @property
    def observes(self) -> bool:
        """Whether the next forward finds ranges or shift bits."""

    @property
    def refines_itself(self) -> bool:
        """Whether the end of the calibration is followed by a refinement."""

    @property
    def parts(self) -> tuple[object, ...]:
        """The session and the objects that it changes."""

    def begin(self) -> None:
        """Is called before each forward."""

    def end(self) -> None:
        """Is called after each forward."""

    def keeping(self, batch: tuple[Any, ...]) -> AbstractContextManager[None]:
        """Returns a context for one forward on the arguments ``batch``."""

    def settle(self, model: nn.Module) -> None:
        """Is called after each forward of ``model`` and its contexts; here the session may run forwards of its own."""


_Session = TypeVar("_Session", bound=Session)


class SessionForward(Replacement):
    """The original forward of a model with a session around it.

    Attributes:
      session: Counts the forwards.
      switch: The mode which ``enable_quantization`` has set.
      takes_other_floats: Whether the model had another floating type, so that its inputs are cast to float32 too.
      seen_inputs: Forms of the inputs of the last forward that found ranges, by name.
    """

    def __init__(self, model: nn.Module, session: Session, takes_other_floats: bool = False) -> None:
        super().__init__(OriginalForward(model))
        self.session = session
        self.takes_other_floats = takes_other_floats
        self.switch = ModeSwitch()
        self.seen_inputs: dict[str, InputForm] = {}

    @property
    def __code__(self) -> CodeType:
        """The code of the user's forward; torch.export reads where it was written."""
        code: CodeType = type(self.original.module).forward.__code__
        return code

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model as one batch of the session, or in the mode that ``enable_quantization`` has set."""
        return eagerly(self._run, args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        refuse_arrays((*args, *kwargs.values()))
        if self.takes_other_floats:
            args, kwargs = in_float32(args), in_float32(kwargs)
        if is_recomputing():  # the session has counted this forward
            return self.original(*args, **kwargs)
        with noting_inputs(self._names, args, kwargs, self.seen_inputs):
            observes = self.session.observes and self.switch.mode is None
            result = self._run_one(args, kwargs)
            if observes:
                self.seen_inputs = forms_of(self._names(), args, kwargs)
        return result

    def _names(self) -> list[str]:
        """Returns the names of the parameters of the user's forward."""
        return [*inspect.signature(type(self.original.module).forward).parameters][1:]

    def _run_one(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        session, model = self.session, self.original.module
        layers, parts = session.layers.values(), session.parts
        follow_modules(model, session.container)
        follow_flag(model, session.container)
        if self.switch.mode is not None:
            with any_forward(), _one_batch(layers):
                return self.switch.run(self.original, args, kwargs)
        whole = (
            calibration_forward(model, session.container, parts, is_refined_next=session.refines_itself)
            if session.observes
            else all_or_nothing((), (), parts)
        )
        with session.keeping((*args, kwargs) if kwargs else args), whole, any_forward():
            session.begin()
            with _one_batch(layers):
                result = self.original(*args, **kwargs)
            session.end()
        session.settle(model)
        return result


@contextlib.contextmanager
def _one_batch(layers: Collection[QuantizedLayer]) -> Iterator[None]:
    """Returns a context for one forward: the tensors of a layer with several uses are a batch, dropped on errors."""
    several = [layer for layer in layers if layer.has_several_uses]
    for layer in layers:
        layer.calls = 0
    is_complete = False
    try:
        yield
        is_complete = True
    finally:
        for layer in several:
            layer.end_forward(is_complete=is_complete)


def attach_session(model: nn.Module, session: Session, takes_other_floats: bool) -> None:
    """Makes ``session`` control ``model``, in place; see `SessionForward`."""
    replace_forward(model, SessionForward(model, session, takes_other_floats))


def takes_other_floats(model: nn.Module) -> bool:
    """Whether ``model``, which has a session, casts its inputs."""
    forward = replacement_of(model)
    return isinstance(forward, SessionForward) and forward.takes_other_floats


def find_session(
    function: str, model: nn.Module, kind: type[_Session] | tuple[type[_Session], ...], made_by: tuple[str, ...]
) -> tuple[nn.Module, _Session]:
    """Returns the quantized model in ``model`` (itself included) and its session of that ``kind``.

    ``made_by`` are the functions that return such models, named in the error of ``function``.

    Raises:
      ConfigError: There is no such model.
    """
    found = session_inside(model, kind)
    if found is not None:
        return found
    msg = (
        f"{function}: {type(model).__name__} contains no model made by {' or '.join(made_by)}. Pass what that call"
        " returned."
    )
    raise ConfigError(msg)


def session_inside(
    model: nn.Module, kind: type[_Session] | tuple[type[_Session], ...]
) -> tuple[nn.Module, _Session] | None:
    """Returns the quantized model in ``model`` (itself included) and its session of that ``kind``; None without one."""
    for module in model.modules():
        forward = replacement_of(module)
        if isinstance(forward, SessionForward) and isinstance(forward.session, kind):
            return module, forward.session
    return None
