"""The arguments of a guided trace: the arguments of the example with fake tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .....errors import UnsupportedModelError
from .....torch_private import pytree
from .evaluation import Evaluator


def fake_arguments(arguments: Mapping[str, Any], evaluator: Evaluator, batch: tuple[int, int] | None) -> dict[str, Any]:
    """Returns ``arguments`` with fakes in place of tensors.

    ``batch`` is a pair: an axis 0 of the first length gets the second one, in all tensors.
    """

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if batch is None or not value.dim() or value.shape[0] != batch[0]:
            return evaluator.fake(value.detach())
        return evaluator.empty((batch[1], *value.shape[1:]), value)

    return {name: pytree.tree_map(fake, value) for name, value in arguments.items()}


def refuse_objects(arguments: Mapping[str, Any]) -> None:
    """Raises UnsupportedModelError for an object of a class of the user's that holds tensors."""
    for value in pytree.tree_leaves(dict(arguments)):
        held = () if isinstance(value, Tensor) else getattr(value, "__dict__", {}).values()
        if any(isinstance(one, Tensor) for one in held):
            msg = (
                f"input_data holds a {type(value).__name__}, an object with tensors in it, whose tensors would be"
                " constants of the graph. Let the forward take them as tensors, or in a tuple, list or dict; or make a"
                " dataclass known to torch: torch.export.register_dataclass."
            )
            raise UnsupportedModelError(msg)
