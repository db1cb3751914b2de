"""What modules hold in plain attributes: modules in containers, and tensors that are no buffers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ....torch_private import pytree


def held_modules(root: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules in lists, tuples and dicts that the modules of ``root`` hold, and the modules inside them."""
    for module in root.modules():
        for name, value in vars(module).items():
            if isinstance(value, (list, tuple, dict)) and name not in ("_parameters", "_buffers", "_modules"):
                for leaf in pytree.tree_leaves(value):
                    if isinstance(leaf, nn.Module):
                        yield from leaf.modules()


def tensor_attributes(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors that are plain attributes of modules."""
    for path, module in root.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}" if path else name, value
