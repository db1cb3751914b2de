"""InputForm: shape and type of a tensor given to a forward; notes how they differ from calibration if it fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch

from ...errors import AmctError
from ...nn.quantized_layer import QuantizedLayer


@dataclasses.dataclass(frozen=True)
class InputForm:
    """Shape and type of one input."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def is_like(self, other: InputForm) -> bool:
        """Whether both are equal apart from the batch, the first axis."""
        return self.dtype == other.dtype and len(self.shape) == len(other.shape) and self.shape[1:] == other.shape[1:]

    def text(self, with_type: bool) -> str:
        """Returns the form for a message, such as ``[1, 3, 4, 4] torch.uint8``."""
        return f"{list(self.shape)} {self.dtype}" if with_type else f"{list(self.shape)}"


def forms_of(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, InputForm]:
    """Returns the form of every tensor among the arguments of a forward whose parameters are ``names``, by name."""
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {
        name: InputForm(tuple(one.shape), one.dtype) for name, one in given.items() if isinstance(one, torch.Tensor)
    }


def differences(given: Mapping[str, InputForm], seen: Mapping[str, InputForm]) -> str:
    """Names the inputs that are not like those seen in calibration; empty if there are none."""
    other = []
    for name, form in given.items():
        if name in seen and not form.is_like(seen[name]):
            typed = form.dtype != seen[name].dtype
            other.append(f"'{name}' is {form.text(typed)}, in calibration it was {seen[name].text(typed)}")
    return "; ".join(other)


@contextlib.contextmanager
def noting_inputs(
    names: Callable[[], Sequence[str]],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    seen: Mapping[str, InputForm],
) -> Iterator[None]:
    """Adds a note on the inputs to an error of a forward, the same object, if they differ from those in calibration.

    ``names`` finds the names of the parameters, which takes time, so only after an error.
    If no calibration was seen, the note has the inputs alone. Our own errors say what is wrong without it.
    """
    try:
        yield
    except AmctError:
        raise
    except Exception as error:  # whatever torch or a module of the user's raises
        given = forms_of(names(), args, kwargs)
        said = differences(given, seen)
        if not seen:
            said = "; ".join(f"'{name}' is {form.text(with_type=True)}" for name, form in given.items())
        layer = _layer_in(error.__traceback__)
        if said:
            where = f", raised in layer '{layer}'" if layer else ""
            note = f"Inputs of the quantized model{where}: {said}."
            error.__notes__ = [*getattr(error, "__notes__", []), note]  # add_note: Python 3.11
        raise


def _layer_in(trace: TracebackType | None) -> str:
    """Returns the name of the innermost quantized layer whose frames ``trace`` has; empty if it has none."""
    name = ""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, QuantizedLayer):
            name = owner.name
        trace = trace.tb_next
    return name
