"""KeptBuffers: runs of a model after which its buffers are what they were."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import nn

from ...torch_private import known_version


class KeptBuffers:
    """A context at whose exit the buffers of ``model`` are the same tensors with the same values as at its entry.

    Attributes:
      changed: The names of the buffers that were put back; known after the exit.
    """

    def __init__(self, model: nn.Module) -> None:
        """Saves nothing yet."""
        self._model = model
        self.changed: tuple[str, ...] = ()

    def __enter__(self) -> KeptBuffers:
        """Saves the buffers."""
        self._saved = [(path, module, dict(module._buffers)) for path, module in self._model.named_modules()]
        tensors = [one for _, _, buffers in self._saved for one in buffers.values() if one is not None]
        self._values = {id(one): (one.detach().clone(), known_version(one)) for one in tensors}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Puts back what has changed."""
        changed = []
        for path, module, buffers in self._saved:
            for name, one in buffers.items():
                is_other = module._buffers.get(name) is not one
                module._buffers[name] = one
                if one is not None and (is_other or known_version(one) != self._values[id(one)][1]):
                    changed.append(f"{path}.{name}" if path else name)
                    with torch.no_grad():
                        one.copy_(self._values[id(one)][0])
        self.changed = tuple(changed)
