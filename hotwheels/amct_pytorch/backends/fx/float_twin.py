"""FloatTwin: the user's own forward, kept beside its graph, with the weights that the quantized model has now."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.batch_store import copied
from ..batches.example import Example
from ..user_model.memory_of_calls import refuse_memory
from ..user_model.model_state import unchanged
from ..user_model.weight_hooks import stored_tensors
from .trace.compare import Results, hooked_paths, results_of
from .trace.tracer import callee_in_force


class FloatTwin:
    """A copy of a float model, which shares its parameters with the graph that was traced from it.

    Attributes:
      has_changed: Whether the last `run` has changed attributes of the model, so that the next call may differ.
    """

    def __init__(self, model: nn.Module) -> None:
        """``model`` is that copy; only this object calls it from then on."""
        self._model = model
        self.has_changed = False

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return type(self._model).__name__

    def module_results(self, example: Example, state: Mapping[str, Tensor]) -> Results:
        """Returns what the modules give which contain no others and have no hooks, in the order of their calls."""
        inner = {path for path, module in self._model.named_modules() if path and not module._modules}
        paths = inner - hooked_paths(self._model)
        return results_of(self._model, paths, lambda: self.run(example, state))

    def example(self, inputs: tuple[Any, ...]) -> Example:
        """Returns the call that ``inputs`` stand for."""
        return Example.of(inputs, callee_in_force(self._model) or self._model.forward)

    @torch.no_grad()
    def run(self, example: Example, state: Mapping[str, Tensor]) -> Any:
        """Returns what the model in eval mode makes of copies of ``example``; both it and ``state`` stay as they were.

        ``state`` holds the present parameters and buffers by name; others than the model's are not read.
        """
        with unchanged(self._model) as before:  # training flags, too: modules are shared with the graph
            result = self._call(example, state)
            self.has_changed = bool(before.changed_attributes())
            return result

    @torch.no_grad()
    def refuse_memory(self, example: Example, state: Mapping[str, Tensor]) -> None:
        """Raises UnsupportedModelError if a second call with ``example`` gives another result."""
        refuse_memory(self._model, lambda: self._call(example, state))

    def _call(self, example: Example, state: Mapping[str, Tensor]) -> Any:
        model = self._model.eval()
        args, kwargs = copied((example.args, dict(example.kwargs)))
        buffers = {name: state[name].clone() for name, _ in model.named_buffers() if name in state}
        parameters = {name: state[name] for name, _ in model.named_parameters() if name in state}
        return torch.func.functional_call(model, {**parameters, **buffers}, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FloatTwin:
        """Copies the model; what hooks have stored in it is made anew by them."""
        memo.update((id(one), one) for one in stored_tensors(self._model))
        return FloatTwin(copy.deepcopy(self._model, memo))
