"""The leaves of the arguments and results of a call: tensors, numbers and sizes inside tuples, lists, dicts, slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def leaves(tree: Any) -> Iterator[Any]:
    """Yields the leaves of ``tree``: everything that is no tuple, size, list, dict or slice."""
    if isinstance(tree, (tuple, list)):
        for one in tree:
            yield from leaves(one)
    elif isinstance(tree, dict):
        for one in tree.values():
            yield from leaves(one)
    elif isinstance(tree, slice):
        yield from leaves((tree.start, tree.stop, tree.step))
    else:
        yield tree


def tensors_in(tree: Any) -> list[Tensor]:
    """Returns the tensors of ``tree``, in order."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Returns ``tree`` with ``function`` applied to all that `leaves` yields; a size becomes a tuple."""
    if isinstance(tree, torch.Size):
        return tuple(function(one) for one in tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, one) for one in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_leaves(function, one) for one in tree)
    if isinstance(tree, dict):
        return {key: map_leaves(function, one) for key, one in tree.items()}
    if isinstance(tree, slice):
        return slice(*(map_leaves(function, one) for one in (tree.start, tree.stop, tree.step)))
    return function(tree)
