"""Checks of arguments that hold data: batches of refine, auto_quantize, QuantAnalyzer and check_model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..backends.batches.example import Example
from ..backends.batches.input_forms import InputForm, differences, forms_of
from ..backends.calls.leaves import leaves, tensors_in
from ..backends.fx.quant_graph_module import QuantGraphModule, names_of_inputs
from ..backends.fx.write.example_call import positional_inputs
from ..errors import AmctError, CalibrationError, ExportError, UnsupportedModelError
from .arguments import as_inputs

Batch = tuple[Any, ...]
_NO_INPUTS = (type(None), DataLoader, str, bytes, int, float, nn.Module)


def read_batches(function: str, argument: str, data: object) -> list[Batch]:
    """Returns the batches of ``data``, each as positional arguments; a single tensor is one batch.

    Raises:
      TypeError: ``data`` is no iterable of batches, or a batch holds a NumPy array or no tensor.
      CalibrationError: There is no batch, or a tensor has NaN.
    """
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping, nn.Module, np.ndarray)):
        raise TypeError(
            f"{function}: argument '{argument}' must be a tensor, or an iterable of batches such as a DataLoader or a"
            f" list of tensors, got {type(data).__name__}."
        )
    batches = [as_inputs(batch) for batch in ([data] if isinstance(data, Tensor) else data)]
    if not batches:
        raise CalibrationError(
            f"{function}: the data has no batch. Pass the batches that calibration has seen, or more."
        )
    for at, batch in enumerate(batches):
        if not tensors_in(batch):
            kinds = ", ".join(type(one).__name__ for one in batch)
            raise TypeError(
                f"{function}: a batch of the data has no tensor, but ({kinds}). Pass batches as in calibration:"
                " tensors, or tuples of the arguments of forward."
            )
        _refuse_nan(function, argument, at, batch)
    return batches


def check_calls(function: str, argument: str, batches: Sequence[Batch], model: nn.Module) -> None:
    """Checks that ``forward`` of ``model`` takes each batch.

    Raises:
      CalibrationError: It takes other arguments. The text says how to leave out labels.
    """
    for at, batch in enumerate(batches):
        check_call(function, f"batch {at} of '{argument}'", batch, model, batches=argument)


def check_call(
    function: str,
    what: str,
    batch: Batch,
    model: nn.Module,
    error_class: type[AmctError] = CalibrationError,
    *,
    batches: str | None = None,
) -> None:
    """Checks that ``forward`` of ``model`` takes the arguments ``batch``, which messages call ``what``.

    ``batches`` is the name of the argument with several batches; None if ``batch`` is the argument itself.

    Raises:
      TypeError: There is nothing in them that a model computes with, as in None or a DataLoader.
      AmctError: ``forward`` takes other arguments; of class ``error_class``.
    """
    if all(isinstance(one, _NO_INPUTS) for one in leaves(batch)):
        kinds = ", ".join(type(one).__name__ for one in batch)
        raise TypeError(
            f"{function}: {what} has no tensor, but ({kinds}). Pass a tensor, or a tuple of the arguments of forward;"
            " of a DataLoader one batch."
        )
    try:
        _bind(batch, model)
    except (ExportError, UnsupportedModelError) as error:
        names = _parameters(model)
        if len(batch) <= len(names):
            raise error_class(f"{function}: {what} does not fit the model. {error}") from error
        part = "[0]" if len(names) == 1 else f"[:{len(names)}]"
        way_out = f"its value {part} alone" if batches is None else f"[batch{part} for batch in {batches}]"
        raise error_class(
            f"{function}: {what} has {len(batch)} values, but forward takes {', '.join(names) or 'none'}. Labels do not"
            f" belong in it: pass {way_out}."
        ) from error


@contextlib.contextmanager
def naming_other_shapes(
    function: str, batches: Sequence[Batch], names: Callable[[], Sequence[str]], seen: Mapping[str, InputForm]
) -> Iterator[None]:
    """Returns a context for work on the argument ``data``: an error names a batch that is unlike those ``seen``.

    Args:
      function: The function, for messages.
      batches: The positional arguments of each forward.
      names: Returns the names of the parameters of forward.
      seen: Forms of the inputs of calibration; empty to compare with the first batch.

    Raises:
      CalibrationError: The work failed, and a batch has another shape or type.
    """
    try:
        yield
    except AmctError:
        raise
    except Exception as error:  # whatever torch or a module of the user's raises
        known = seen or forms_of(names(), batches[0], {})
        for at, batch in enumerate(batches):
            said = differences(forms_of(names(), batch, {}), known) or _no_tensors(names(), batch, known)
            if said:
                said = said if seen else said.replace("in calibration it was", "in batch 0 it is")
                raise CalibrationError(
                    f"{function}: batch {at} of 'data' does not fit the model: {said}. {type(error).__name__}: {error}"
                ) from error
        raise


def _no_tensors(names: Sequence[str], batch: Batch, known: Mapping[str, InputForm]) -> str:
    """Names the values of ``batch`` that are no tensors and were tensors in calibration; empty if there are none."""
    return "; ".join(
        f"'{name}' is of type {type(value).__name__}, in calibration it was a tensor"
        f" {known[name].text(with_type=False)}"
        for name, value in zip(names, batch, strict=False)
        if name in known and not isinstance(value, Tensor)
    )


def _refuse_nan(function: str, argument: str, at: int, batch: Batch) -> None:
    """Raises CalibrationError for NaN. Infinities are allowed: an attention mask may have them."""
    for one in tensors_in(batch):
        if one.is_floating_point() and bool(torch.isnan(one).any()):
            raise CalibrationError(
                f"{function}: batch {at} of '{argument}' has NaN in a tensor of shape {list(one.shape)}; pass data on"
                " which the float model gives finite values."
            )


def _bind(batch: Batch, model: nn.Module) -> None:
    if isinstance(model, QuantGraphModule):
        positional_inputs(model, batch)
    else:
        Example.of(batch, model.forward).arguments(model.forward)


def _parameters(model: nn.Module) -> list[str]:
    if isinstance(model, QuantGraphModule):
        return names_of_inputs(model)
    return list(inspect.signature(model.forward).parameters)
