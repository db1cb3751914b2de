"""Maps functions over nested tuples, lists and dicts; used if torch has no ``torch.utils._pytree``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Returns ``tree`` with ``function(leaf, ...)`` in place of each leaf; ``others`` give further arguments."""
    if isinstance(tree, dict):
        return type(tree)({key: tree_map(function, tree[key], *(one[key] for one in others)) for key in tree})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(tree_map(function, *items) for items in zip(tree, *others, strict=True)))
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(function, *items) for items in zip(tree, *others, strict=True))
    return function(tree, *others)


def tree_map_only(kind: type | tuple[type, ...], function: Callable[[Any], Any], tree: Any) -> Any:
    """Returns ``tree`` with ``function(leaf)`` in place of each leaf of the class ``kind``."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, kind) else leaf, tree)


def tree_leaves(tree: Any) -> list[Any]:
    """Returns all leaves of ``tree`` (values that are no tuple, list or dict) in order."""
    return list(_leaves(tree))


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """Returns the leaves, and the layout that `tree_unflatten` takes."""
    return tree_leaves(tree), tree_map(lambda _leaf: None, tree)


def tree_unflatten(leaves: Iterable[Any], layout: Any) -> Any:
    """Returns a tree of that ``layout`` with these ``leaves``."""
    rest = iter(leaves)
    return tree_map(lambda _leaf: next(rest), layout)


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree
