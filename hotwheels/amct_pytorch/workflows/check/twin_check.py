"""Compares the float graph of a quantized model with the user's own forward, at a save (spec 2.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ...backends.batches.example import Example
from ...backends.batches.float_arrays import array_of, shaken
from ...backends.batches.outputs import output_tensors
from ...backends.fx.float_twin import FloatTwin
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.trace.compare import first_difference, results_of
from ...backends.user_model.float_model import in_float32
from ...backends.user_model.model_state import unchanged
from ...errors import ExportError
from ...log import get_logger
from ...nn.mode import Mode
from ...oracle.float_check import differences
from ...torch_private import pytree
from ..kept_state import copies_of, kept_state

_log = get_logger(__name__)

_Arrays = Sequence[NDArray[Any]]


def check_against_twin(quantized: QuantGraphModule, inputs: tuple[Any, ...], results: _Arrays | None = None) -> bool:
    """Compares the float graph of ``quantized`` with the user's float forward, with the same weights, on ``inputs``.

    Returns whether ``results`` are those of the forward.

    Both run in eval mode and are left as they were. A model whose forward fails, or gives something else in each run,
    is not compared.

    Args:
      quantized: The quantized graph.
      inputs: Arguments of the forward.
      results: The tensors that the ONNX model written from the graph returns for ``inputs``; None if it was not run.
        The graph itself only runs if they differ from the forward's.

    Raises:
      ExportError: The results differ by more than float rounding; the text names the first module whose result does.
      UnsupportedModelError: A second call of the float forward gives another result.
    """
    twin = quantized.twin
    if twin is None:
        return False
    device = next((one.device for one in quantized.parameters()), torch.device("cpu"))
    inputs = pytree.tree_map_only(Tensor, lambda one: one.to(device), inputs)
    run = _Run(quantized, twin, in_float32(inputs) if quantized.takes_other_floats else inputs)
    try:
        expected = run.of_twin()
        if twin.has_changed:
            run.refuse_memory()
        if results is not None and _are_near(results, expected):
            return True
        found = run.of_graph()
        if _are_near(found, expected):
            return False
        again = run.of_twin()
    except _ForwardError as error:
        _log.warning("The float graph is not compared with %s, whose forward fails: %s", twin.name, error.__cause__)
        return False
    if not _are_near(again, expected):
        _log.debug("%s gives another result in each run; its graph is not compared with it.", twin.name)
        return False
    if len(found) != len(expected):
        raise ExportError(_text(twin, f"it returns {len(expected)} tensors, the graph {len(found)}"))
    # How far rounding alone moves the outputs.
    rounding = {str(at): one for at, one in enumerate(run.shaken().of_twin())}
    wrong = differences(_pairs(found, expected), rounding)
    if wrong:
        at, difference = next(iter(wrong.items()))
        raise ExportError(_text(twin, f"on input_data output {at} {difference}; {run.first_difference()}"))
    return False


def _text(twin: FloatTwin, what: str) -> str:
    return (
        f"The traced graph of {twin.name} does not compute what the model computes: {what}. The forward does what a"
        " trace cannot see, such as a branch on a size or a type. Create the quantized model with input_data=, or"
        " write that place in another way."
    )


class _ForwardError(Exception):
    """The user's forward has raised the exception that is the cause of this one."""


@dataclasses.dataclass(frozen=True)
class _Run:
    """Both on the same inputs."""

    quantized: QuantGraphModule
    twin: FloatTwin
    inputs: tuple[Any, ...]

    def shaken(self) -> _Run:
        """Returns the same with other last bits in the inputs."""
        return dataclasses.replace(self, inputs=pytree.tree_map_only(Tensor, shaken, self.inputs))

    def refuse_memory(self) -> None:
        self.twin.refuse_memory(self._example(), self._state())

    def of_twin(self) -> list[NDArray[Any]]:
        try:
            return _arrays(self.twin.run(self._example(), self._state()))
        except Exception as error:  # a user's forward may raise anything, on a device it was not made for
            raise _ForwardError from error

    def of_graph(self) -> list[NDArray[Any]]:
        return _arrays(self._run_graph())

    def first_difference(self) -> str:
        """Returns the first module whose results differ, in words."""
        theirs = self.twin.module_results(self._example(), self._state())
        ours = results_of(self.quantized, {path for path, _ in theirs}, self._run_graph)
        return first_difference(ours, theirs, lambda one, other: _are_near(_arrays(one), _arrays(other)))

    def _run_graph(self) -> Any:
        example = self._example()
        with torch.no_grad(), kept_state(self.quantized), unchanged(self.quantized):
            self.quantized.eval()
            self.quantized.mode = Mode.FLOAT
            return self.quantized(*copies_of(example.args), **example.kwargs)

    def _example(self) -> Example:
        return self.twin.example(self.inputs)

    def _state(self) -> dict[str, Tensor]:
        return dict((*self.quantized.named_parameters(), *self.quantized.named_buffers()))


def _are_near(found: _Arrays, expected: _Arrays) -> bool:
    """Whether the tensors are as many, and equal but for float rounding."""
    return len(found) == len(expected) and not differences(_pairs(found, expected), {})


def _pairs(
    found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {str(at): pair for at, pair in enumerate(zip(found, expected, strict=False))}


def _arrays(tree: Any) -> list[NDArray[Any]]:
    return [array_of(leaf) for leaf in output_tensors(tree)]
