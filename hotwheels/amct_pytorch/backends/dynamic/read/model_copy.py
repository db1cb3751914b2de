"""Copies a model so that nothing in the copy runs the original, not even a forward set as a lambda."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ....log import get_logger
from ...user_model.rebound_functions import rebind_functions

_log = get_logger(__name__)


def copy_model(model: nn.Module) -> nn.Module:
    """Returns a deep copy of ``model``; the model itself, with a WARNING, if it cannot be copied (spec 3)."""
    memo = _detached(model)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # a user's __deepcopy__ may raise anything
        _log.warning(
            "The model %s cannot be copied (%s: %s), so the model itself is used and changed. Tensors which are"
            " results of a computation and stored on the model are the usual reason: detach them.",
            type(model).__name__, type(error).__name__, error,
        )  # fmt: skip
        return model
    rebind_functions(copied, memo)
    return copied


def _detached(model: nn.Module) -> dict[int, Any]:
    """Returns copies, by id, of computed tensors stored on modules, such as the weight of a weight_norm."""
    values = (value for module in model.modules() for value in vars(module).values())
    results = [value for value in values if isinstance(value, Tensor) and value.grad_fn is not None]
    return {id(value): value.detach().clone() for value in results}
