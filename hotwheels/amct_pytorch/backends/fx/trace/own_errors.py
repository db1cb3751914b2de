"""Errors of the user's own code in a trace: they come through as they are, with the layer and the line."""

from __future__ import annotations

import contextlib
import copy
import re
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ....torch_private import pytree
from ...batches.example import Example
from ...user_model.float_model import advice_on_types
from ...user_model.model_state import unchanged
from .tracer import NotOwnedError
from .user_code import is_user_file

# What Python raises for a mistake that has nothing to do with values. Errors of other classes, and those of a ``raise``
# of the user's, may come from a Proxy in the place of a tensor.
_OF_MISTAKES = (KeyError, NameError, AttributeError, ImportError, ZeroDivisionError, FileNotFoundError)
_FX = Path(fx.__file__).parent
_OF_PROXIES = re.compile(r"Proxy|Attribute\b|FakeTensor|Tracer")


def error_of_call(model: nn.Module, example: Example) -> Exception | None:
    """Returns what ``model`` itself raises when it is called as in ``example``; None if it runs.

    A copy is called, since a forward may write parameters.
    """
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (example.args, example.kwargs))
    model = copy.deepcopy(model)
    with unchanged(model), torch.no_grad(), contextlib.suppress(StopIteration):
        try:
            model(*args, **kwargs)
        except Exception as error:  # whatever the user's forward raises
            return error
    return None


def is_own_mistake(error: Exception) -> bool:
    """Whether ``error``, raised in a trace without an example, would be raised without the trace as well."""
    if not isinstance(error, _OF_MISTAKES) or _OF_PROXIES.search(str(error)) or _holds_proxy(error.args):
        return False
    if isinstance(error, NotOwnedError) or _is_of_fx(error):
        return False
    frame = _user_frame(error)
    return frame is not None and not (frame.line or "").lstrip().startswith(("raise", "assert"))


def with_place(error: Exception, model: nn.Module, path: str, example: Example | None = None) -> Exception:
    """Adds a note to ``error``, the same object: the module, file and line it comes from. Tracebacks show notes.

    The note also has the sizes of the tensors in ``example``, with which the model was called.
    """
    frame = _user_frame(error)
    kind = type(model.get_submodule(path)).__name__
    where = f', file "{frame.filename}", line {frame.lineno}' if frame is not None else ""
    name = f"layer '{path}'" if path else "the model itself"
    advice = advice_on_types(error)
    note = f"Raised by the forward of {name} ({kind}){where}: {advice or 'it has nothing to do with quantization.'}"
    if not advice and example is not None:
        sizes = ", ".join(
            str(list(one.shape))
            for one in pytree.tree_leaves((example.args, example.kwargs))
            if isinstance(one, Tensor)
        )
        note += f" The float model itself raises it when it is called with input_data: tensors of the sizes {sizes}."
    error.__notes__ = [*getattr(error, "__notes__", []), note]  # add_note: Python 3.11
    return error


def _holds_proxy(args: tuple[Any, ...]) -> bool:
    return any(isinstance(one, fx.Proxy) for one in pytree.tree_leaves(args))


def _is_of_fx(error: Exception) -> bool:
    """Whether torch.fx raised ``error``, such as the NameError for a module that is no submodule of the model."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_FX)


def _user_frame(error: Exception) -> traceback.FrameSummary | None:
    """The innermost frame that is neither torch's nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if is_user_file(frame.filename)), None)
