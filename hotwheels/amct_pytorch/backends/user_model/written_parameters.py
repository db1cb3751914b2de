"""Parameters that a forward writes: masks, clamps and norms of weights that are applied in each call.

A file holds one call, so a second call must write the same values again. Else the model is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModelError
from .model_state import unchanged

WITHOUT_WRITING = (
    "Compute the weight without writing it (w = self.weight * self.mask, in every call), or register the computation"
    " with torch.nn.utils.parametrize"
)
ANEW = "so that a second call reads or writes other values"
OF_DATA = "by values of the data"
PARAMETER_CHANGED = "the forward changes the parameter"
Call = Callable[[], Sequence[Tensor]]
_NOISE = 1e-5  # of the largest element: what writing the same values again may change


class ParameterSums:
    """Sums over the parameters of a model, which tell later which of them were written."""

    def __init__(self, model: nn.Module) -> None:
        """Computes the sums."""
        self._model = model
        self._sums = _sums(model)

    def _written(self) -> dict[str, nn.Parameter]:
        """Returns the parameters with other sums now, by name."""
        now, parameters = _sums(self._model), dict(self._model.named_parameters())
        return {name: parameters[name] for name, one in now.items() if one != self._sums[name]}

    def refuse_changes(self, results: Sequence[Tensor], call: Call, call_on_others: Call) -> None:
        """Calls the model again if a call has written parameters; it keeps the written values.

        Args:
          results: What that call has returned.
          call: Repeats that call and returns its results.
          call_on_others: Calls the model with other data.

        Raises:
          UnsupportedModelError: The values, or the results, of these calls are others.
        """
        parameters = self._written()
        if not parameters:
            return
        names = ", ".join(parameters)
        for run, how in ((call, ANEW), (call_on_others, OF_DATA)):
            before = {name: one.detach().clone() for name, one in parameters.items()}
            with unchanged(self._model):
                again = run()
            for name, one in parameters.items():
                if is_changed(before[name], one):
                    raise UnsupportedModelError(text_of_change(name, how))
            if run is call and any(map(is_changed, results, again)):
                raise UnsupportedModelError(text_of_change(names, ANEW))


def _sums(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Returns two sums over each parameter, as texts, for which NaN is equal to NaN."""
    found = {}
    with torch.no_grad():
        for name, one in model.named_parameters():
            size = torch.linalg.vector_norm(one.float(), dtype=torch.float64) if one.numel() else 0.0
            found[name] = str(float(one.sum(dtype=torch.float64))), str(float(size))
    return found


def is_changed(before: Tensor, after: Tensor) -> bool:
    """Whether the second of two calls gives more than float rounding apart from the first."""
    if torch.equal(before, after) or not before.is_floating_point():
        return not torch.equal(before, after)
    largest = float(before.detach().abs().max()) if before.numel() else 0.0
    difference = float((after.detach() - before.detach()).abs().max()) if before.numel() else 0.0
    return not difference <= _NOISE * largest


def text_of_change(path: str, how: str, line: str | None = None) -> str:
    """Returns the text of the error for the parameter at ``path``: ``how`` it is changed, in the user's ``line``."""
    where = f"\n  {line.strip()}" if line else ""
    return f"The forward changes the parameter '{path}' {how}, and a file holds one call.{where}\n{WITHOUT_WRITING}."
