"""Finds dropouts between the modules that are folded into one layer, which are active in training only (spec 9.2).

The exported model is in eval mode and has no dropouts, so convolution and BatchNorm are neighbours there. If the two
are folded into one layer, training equals that of the user's model only if the layer applies the dropout in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ....log import get_logger
from ....torch_private import BatchNorm, Dropout, pytree
from ...user_model.model_state import unchanged

_log = get_logger(__name__)

Between = tuple[nn.Module, ...]


def find_between(
    model: nn.Module, inputs: tuple[Any, ...], pairs: Mapping[nn.Module, Collection[nn.Module]]
) -> dict[nn.Module, Between | None]:
    """Returns the dropout modules in front of each module in the keys of ``pairs``, in the order of the data.

    The value is None if there is another operation in between, or a dropout that is also called elsewhere, or if the
    module is not called in training. The state of the model is restored.

    Args:
      model: The float model.
      inputs: Its positional arguments.
      pairs: For each module, those whose results it reads in the file, one in each call.
    """
    for only_dropouts in (False, True):
        with unchanged(model), torch.no_grad():
            _train(model, only_dropouts)
            watch = _Watch(pairs)
            try:
                with watch.watching(model):
                    model(*pytree.tree_map_only(Tensor, torch.clone, inputs))
                return watch.found()
            except Exception as error:  # the user's forward may raise anything in training mode
                _log.debug("The model cannot be run in training mode on input_data: %s", error)
    return {reader: () for reader in pairs}


class _Watch:
    """Follows the results of the modules in front in ``pairs`` to their readers."""

    def __init__(self, pairs: Mapping[nn.Module, Collection[nn.Module]]) -> None:
        self._pairs = pairs
        # For each module in front: its result, the tensor behind the dropouts seen so far, and these dropouts.
        self._results: dict[nn.Module, tuple[Tensor, Tensor, Between]] = {}
        self._between: dict[nn.Module, Between | None] = {}
        self._calls: dict[nn.Module, int] = {}  # number of calls of each dropout
        self._readers: dict[nn.Module, int] = {}

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Returns a context in which the calls of these modules, and of the dropouts of ``model``, are recorded."""
        dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
        makers = {one for few in self._pairs.values() for one in few}
        handles = [
            *(module.register_forward_hook(self._made) for module in makers),
            *(module.register_forward_hook(self._dropped) for module in dropouts),
            *(module.register_forward_pre_hook(self._reads) for module in self._pairs),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def found(self) -> dict[nn.Module, Between | None]:
        """Returns the result of `find_between`."""
        return {norm: self._if_alone(norm, self._between.get(norm)) for norm in self._pairs}

    def _if_alone(self, norm: nn.Module, between: Between | None) -> Between | None:
        is_alone = all(self._calls[dropout] == self._readers[norm] for dropout in between or ())
        return between if is_alone else None

    def _made(self, module: nn.Module, _: Any, result: Tensor) -> None:
        self._results[module] = (result, result.clone(), ())

    def _dropped(self, module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
        self._calls[module] = self._calls.get(module, 0) + 1
        for conv, (tensor, value, between) in self._results.items():
            if tensor is args[0] or _is_equal(args[0], value):
                self._results[conv] = (result, result.clone(), (*between, module))

    def _reads(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._readers[module] = self._readers.get(module, 0) + 1
        found = None
        for before in self._pairs[module]:
            _, value, between = self._results.get(before, (None, None, ()))
            if args and value is not None and _is_moved(args[0], value):
                found = between
                del self._results[before]
                break
        self._between[module] = found if self._between.get(module, found) == found else None


def _train(model: nn.Module, only_dropouts: bool) -> None:
    """Puts ``model`` without its BatchNorms, or only its dropouts, into training mode."""
    for module in model.modules():
        module.training = isinstance(module, Dropout) if only_dropouts else not isinstance(module, BatchNorm)


def _is_equal(x: object, y: Tensor) -> bool:
    return isinstance(x, Tensor) and x.shape == y.shape and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))


def _is_moved(x: object, y: Tensor) -> bool:
    """Whether ``x`` has the values of ``y``, perhaps in another shape or order of axes."""
    if not isinstance(x, Tensor) or x.numel() != y.numel():
        return False
    return _is_equal(x.flatten(), y.flatten()) or _is_equal(x.flatten().sort().values, y.flatten().sort().values)
