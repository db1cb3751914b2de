"""All modules of a model, without the generators of torch, one for each level of nesting."""

from __future__ import annotations

from torch import nn


def all_modules(root: nn.Module) -> list[nn.Module]:
    """Returns what ``root.modules()`` yields: ``root`` and all modules inside, each once, in the same order."""
    found: dict[nn.Module, None] = {}
    waiting: list[nn.Module] = [root]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = None
            waiting += [one for one in reversed(module._modules.values()) if one is not None]
    return list(found)
