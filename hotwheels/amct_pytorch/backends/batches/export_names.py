"""Names in the ONNX files of inputs, outputs and dynamic axes: those of the user, then the default ones (spec 2.4)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ...errors import ExportError
from ...log import get_logger

Axes = Mapping[int, str] | Sequence[int]

_log = get_logger(__name__)


def input_names(given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """Returns one name for each input; those that ``given`` lacks come from ``default``.

    Raises:
      ExportError: There are more names than inputs, or two inputs have one name.
    """
    return _completed("input_names", given or (), default)


def output_names(given: Sequence[str] | None, count: int, inputs: Collection[str]) -> list[str]:
    """Returns one name for each of ``count`` outputs; default ``output``, or ``output_0``, ... of several.

    Raises:
      ExportError: There are more names than outputs, or a name occurs twice, among the ``inputs`` included.
    """
    default = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    names = _completed("output_names", given or (), default)
    for name in names:
        if name in inputs:
            raise ExportError(f"output_names: '{name}' is the name of an input, too. Give the output another name.")
    return names


def labels_of(name: str, axes: Axes) -> Mapping[int, str]:
    """Returns the labels of the dynamic axes of the tensor ``name``; axes without labels get those of torch."""
    if isinstance(axes, Mapping):
        return axes
    return {axis: f"{name}_dynamic_axes_{number}" for number, axis in enumerate(axes, 1)}


def report_unused_axes(axes: Iterable[str], inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Warns of names in ``dynamic_axes`` that neither an input nor an output has."""
    for name in axes:
        if name not in inputs and name not in outputs:
            _log.warning(
                "dynamic_axes: '%s' is ignored, no input or output has that name. Inputs: %s; outputs: %s.",
                name, ", ".join(inputs), ", ".join(outputs),
            )  # fmt: skip


def _completed(setting: str, given: Sequence[str], default: Sequence[str]) -> list[str]:
    if len(given) > len(default):
        raise ExportError(
            f"{setting} has {len(given)} names ({', '.join(given)}), but the model has {len(default)}, by"
            f" default called {', '.join(default)}."
        )
    names = [*given, *default[len(given) :]]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ExportError(
                f"{setting}: two tensors would be called '{name}': {', '.join(names)}. Give each a name of its own."
            )
    return names
